"""What the tests share.

- `after_listing`: changes a cache between the moments in which a reader lists its segments and opens them.
- `archives`: paths of archives, archives made by hand, and an independent reading of archives.
- `block`: rows of a table as the block of a segment, without a file.
- `caches`: caches filled from the samples, damaged and repaired.
- `command`: runs the command `ckvd` as users do, also in a terminal.
- `disks`: disks that refuse: a small one, and a limit on the length of files; FAT, overlays and others.
- `download_site`: a mirror on loopback, an empty cache, and the client between them.
- `faulty_disk`: a disk of which the Nth call fails, by a preloaded library, and commands that run with it.
- `impossible`: the rules of bars that no market can make, for a single bar.
- `kills`: commands that a signal ends at their Nth import, or at their Nth change of a folder.
- `leaks`: descriptors, maps, threads and tasks that a test leaves behind. `conftest.py` watches each test with it.
- `long_intervals`: the real bars of three days and of one day, as rows and as archives.
- `loopback`: HTTP servers on loopback: archives with their listing, and the exchange.
- `locked`: a lock that another process holds.
- `models`: slow and simple doubles of what the package computes.
- `places`: where the repository, its samples and the real data lie.
- `power`: what a program tells the disk, in order, and what a power cut may leave of it.
- `processes`: scripts in new interpreters, and forked children that are killed at fault points.
- `records`: archives of funding rates and metrics made by hand, and an independent reading of them.
- `release`: what everything that holds a resource must do when it is left.
- `settlements`: settlements of funding, as REST and archives have them.
- `stopwatch`: how long something took, without the time for which the machine did something else.
- `strategies`: Hypothesis strategies for series, spans and bars.
- `tables`: tables and segments made by hand, and comparisons of bits and folders.
- `universes`: lives, listings and answers of `exchangeInfo` made by hand, and the recorded ones.
- `venue`: a mirror, an exchange, a clock and a cache on loopback.
- `wrong_month`: a month of which the archive has wrong cells, at a venue.
"""
