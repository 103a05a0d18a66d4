"""Events and forgotten users.

Stores of EmoRec's first services have these tables already, and a table of their own for the
version.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None

_SEQUENCE = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite counts integers alone


def upgrade() -> None:
    """Creates the tables."""
    op.create_table(
        "emorec_events",
        sa.Column("seq", _SEQUENCE, primary_key=True, autoincrement=True),
        sa.Column("key", sa.Text, nullable=True, unique=True),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("item_id", sa.Text, nullable=False),
        sa.Column("feedback", sa.SmallInteger, nullable=False),
        sa.Column("time_us", sa.BigInteger, nullable=False),
        sa.Column("received_us", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,  # a number is never given twice, even after events are forgotten
        if_not_exists=True,
    )
    op.create_index(
        "emorec_events_of_user", "emorec_events", ["user_id", "seq"], if_not_exists=True
    )
    op.create_table(
        "emorec_forgotten",
        sa.Column("user_id", sa.Text, primary_key=True),
        sa.Column("received_us", sa.BigInteger, nullable=False),
        if_not_exists=True,
    )
    op.drop_table("emorec_schema", if_exists=True)


def downgrade() -> None:
    """Deletes the tables, with all events."""
    op.drop_table("emorec_forgotten")
    op.drop_table("emorec_events")
