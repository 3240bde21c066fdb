"""an index of the prompts that have an offline pass rate

Revision: 0002
After: 0001
"""

import sqlalchemy as sa
from alembic import op


revision = '0002'
down_revision = '0001'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        'ix_prompts_with_prior', 'prompts', ['pool_id', 'position'],
        sqlite_where=sa.text('prior_trials > 0'), postgresql_where=sa.text('prior_trials > 0'),
    )


def downgrade() -> None:
    op.drop_index('ix_prompts_with_prior', 'prompts')
