"""What alembic runs: the changes that a store lacks, over the connection that it is given."""

from __future__ import annotations

from alembic import context

from emorec.service.store import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
with context.begin_transaction():
    context.run_migrations()
