"""The command line, `ckvd`: one verb a module. It prints; everything it knows comes from the library."""
