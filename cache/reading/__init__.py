"""From files to arrays: open files, chunks, tables of scans and shards."""
