"""What installs into a new environment: ``make slow``.  A missing program or network fails these tests."""
