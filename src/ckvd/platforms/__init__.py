"""What differs between platforms: what their systems promise, and which packages have wheels for them.

- `operating_system`: locks, flushes, mounts and flags of files. Linux and macOS; on Windows ckvd is not imported.
- `inflate`: inflating and CRC-32, by isal where it has a wheel.
"""
