"""`python -m promptgps_service`."""

from promptgps_service.cli import main

main()
