"""What is slow by nature, or installs into a new environment: ``make slow``.

A missing program or network fails the tests that install.
"""
