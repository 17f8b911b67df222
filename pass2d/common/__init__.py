"""What every part uses: errors, progress, files, JSON, HTML, work done ahead."""
