"""What every part uses: errors, progress, files, JSON, HTML, prefetching."""
