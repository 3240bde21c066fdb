"""Alembic environment: one tree for SQLite and PostgreSQL.

It runs on the connection that the service hands over.
"""

from alembic import context
from promptgps_service.settings import Settings
from promptgps_service.store.engine import make_engine
from promptgps_service.store.tables import metadata
from sqlalchemy import Connection


def run(connection: Connection) -> None:
    """Migrate on this connection; batches, because SQLite cannot alter a column in place."""
    context.configure(
        connection=connection, target_metadata=metadata, render_as_batch=True, compare_type=True
    )
    with context.begin_transaction():
        context.run_migrations()


handed_over = context.config.attributes.get("connection")
if handed_over is not None:
    run(handed_over)
else:  # the `alembic` command itself, as in `alembic revision --autogenerate`
    with make_engine(Settings().database_url).connect() as connection, connection.begin():
        run(connection)
