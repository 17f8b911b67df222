"""Looking at scans: pictures, a page with a 3D view, a Rerun recording. No torch."""
