"""Reports of runs and studies: what their files hold, as one page."""
