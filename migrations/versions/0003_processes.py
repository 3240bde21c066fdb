"""several processes on one database; snapshots, and what a restore supersedes

Revision: 0003
After: 0002
"""

import sqlalchemy as sa
from alembic import op


revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('workers',
    sa.Column('id', sa.String(length=64), nullable=False),
    sa.Column('beat', sa.BigInteger(), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_workers'))
    )
    op.create_table('leases',
    sa.Column('run_id', sa.Integer(), nullable=False),
    sa.Column('holder', sa.String(length=64), nullable=False),
    sa.ForeignKeyConstraint(
        ['holder'], ['workers.id'], name=op.f('fk_leases_holder'), ondelete='CASCADE'
    ),
    sa.ForeignKeyConstraint(['run_id'], ['runs.id'], name=op.f('fk_leases_run_id')),
    sa.PrimaryKeyConstraint('run_id', name=op.f('pk_leases'))
    )
    op.create_index(op.f('ix_leases_holder'), 'leases', ['holder'], unique=False)
    op.create_table('restores',
    sa.Column('run_id', sa.Integer(), nullable=False),
    sa.Column('epoch', sa.Integer(), nullable=False),
    sa.Column('tag', sa.String(length=128), nullable=False),
    sa.Column('created_at', sa.String(length=32), nullable=False),
    sa.ForeignKeyConstraint(['run_id'], ['runs.id'], name=op.f('fk_restores_run_id')),
    sa.PrimaryKeyConstraint('run_id', 'epoch', name=op.f('pk_restores'))
    )
    op.create_table('snapshots',
    sa.Column('id', sa.Integer(), nullable=False),
    sa.Column('run_id', sa.Integer(), nullable=False),
    sa.Column('tag', sa.String(length=128), nullable=False),
    sa.Column('epoch', sa.Integer(), nullable=False),
    sa.Column('settings', sa.JSON(), nullable=False),
    sa.Column('log_position', sa.BigInteger(), nullable=False),
    sa.Column('draws', sa.BigInteger(), nullable=False),
    sa.Column('selections', sa.BigInteger(), nullable=False),
    sa.Column('model_version', sa.BigInteger(), nullable=False),
    sa.Column('trained_through', sa.BigInteger(), nullable=False),
    sa.Column('created_at', sa.String(length=32), nullable=False),
    sa.Column('superseded_in', sa.Integer(), nullable=False),
    sa.ForeignKeyConstraint(['run_id'], ['runs.id'], name=op.f('fk_snapshots_run_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_snapshots')),
    sa.UniqueConstraint(
        'run_id', 'tag', 'superseded_in', name=op.f('uq_snapshots_run_id_tag_superseded_in')
    )
    )
    op.create_table('superseded_outcomes',
    sa.Column('run_id', sa.Integer(), nullable=False),
    sa.Column('position', sa.BigInteger(), nullable=False),
    sa.Column('draw', sa.BigInteger(), nullable=True),
    sa.Column('row', sa.Integer(), nullable=False),
    sa.Column('rollout', sa.Integer(), nullable=False),
    sa.Column('successes', sa.Float(), nullable=False),
    sa.Column('trials', sa.Integer(), nullable=False),
    sa.Column('reward', sa.Float(), nullable=True),
    sa.Column('status', sa.SmallInteger(), nullable=False),
    sa.Column('policy_version', sa.BigInteger(), nullable=True),
    sa.Column('received_at', sa.Float(), nullable=False),
    sa.Column('superseded_in', sa.Integer(), nullable=False),
    sa.ForeignKeyConstraint(['run_id'], ['runs.id'], name=op.f('fk_superseded_outcomes_run_id')),
    sa.PrimaryKeyConstraint(
        'run_id', 'superseded_in', 'position', name=op.f('pk_superseded_outcomes')
    ),
    sa.UniqueConstraint(
        'run_id',
        'superseded_in',
        'draw',
        'rollout',
        name=op.f('uq_superseded_outcomes_run_id_superseded_in_draw_rollout'),
    )
    )
    op.create_table('superseded_selections',
    sa.Column('run_id', sa.Integer(), nullable=False),
    sa.Column('sequence', sa.BigInteger(), nullable=False),
    sa.Column('ordinal', sa.BigInteger(), nullable=False),
    sa.Column('request', sa.String(length=64), nullable=False),
    sa.Column('seed', sa.BigInteger(), nullable=False),
    sa.Column('clock', sa.BigInteger(), nullable=False),
    sa.Column('policy_version', sa.BigInteger(), nullable=True),
    sa.Column('model_version', sa.BigInteger(), nullable=False),
    sa.Column('trained_through', sa.BigInteger(), nullable=False),
    sa.Column('strategy', sa.String(length=32), nullable=False),
    sa.Column('rollouts', sa.Integer(), nullable=False),
    sa.Column('first_draw', sa.BigInteger(), nullable=False),
    sa.Column('size', sa.Integer(), nullable=False),
    sa.Column('rows', sa.LargeBinary(), nullable=False),
    sa.Column('predicted', sa.LargeBinary(), nullable=False),
    sa.Column('uncertainty', sa.LargeBinary(), nullable=False),
    sa.Column('uniform', sa.LargeBinary(), nullable=False),
    sa.Column('warnings', sa.JSON(), nullable=False),
    sa.Column('created_at', sa.String(length=32), nullable=False),
    sa.Column('epoch', sa.Integer(), nullable=False),
    sa.Column('waited', sa.SmallInteger(), nullable=False),
    sa.Column('superseded_in', sa.Integer(), nullable=False),
    sa.ForeignKeyConstraint(['run_id'], ['runs.id'], name=op.f('fk_superseded_selections_run_id')),
    sa.PrimaryKeyConstraint(
        'run_id', 'superseded_in', 'ordinal', name=op.f('pk_superseded_selections')
    )
    )
    op.create_index(
        op.f('ix_superseded_selections_run_id_epoch_first_draw'),
        'superseded_selections',
        ['run_id', 'epoch', 'first_draw'],
        unique=False,
    )
    op.create_table('superseded_steps',
    sa.Column('run_id', sa.Integer(), nullable=False),
    sa.Column('version', sa.BigInteger(), nullable=False),
    sa.Column('trained_through', sa.BigInteger(), nullable=False),
    sa.Column('metrics', sa.JSON(), nullable=False),
    sa.Column('created_at', sa.String(length=32), nullable=False),
    sa.Column('superseded_in', sa.Integer(), nullable=False),
    sa.ForeignKeyConstraint(['run_id'], ['runs.id'], name=op.f('fk_superseded_steps_run_id')),
    sa.PrimaryKeyConstraint('run_id', 'superseded_in', 'version', name=op.f('pk_superseded_steps'))
    )
    op.add_column(
        'receipts',
        sa.Column('log_position', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    )
    op.add_column(
        'runs', sa.Column('epoch', sa.Integer(), server_default=sa.text('0'), nullable=False)
    )
    op.add_column(
        'runs', sa.Column('revision', sa.Integer(), server_default=sa.text('0'), nullable=False)
    )
    op.add_column(
        'runs',
        sa.Column('model_version', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    )
    op.add_column(
        'runs',
        sa.Column('trained_through', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    )
    op.add_column(
        'runs', sa.Column('wanted', sa.BigInteger(), server_default=sa.text('0'), nullable=False)
    )
    op.add_column(
        'runs', sa.Column('touched', sa.BigInteger(), server_default=sa.text('0'), nullable=False)
    )
    op.create_index('ix_runs_touched', 'runs', ['touched'], unique=False)
    op.add_column(
        'selections', sa.Column('epoch', sa.Integer(), server_default=sa.text('0'), nullable=False)
    )
    op.add_column(
        'selections',
        sa.Column('waited', sa.SmallInteger(), server_default=sa.text('0'), nullable=False),
    )
    newest = "SELECT {} FROM model_versions WHERE run_id = runs.id ORDER BY version DESC LIMIT 1"
    for column, of in (("model_version", "version"), ("trained_through", "trained_through")):
        op.execute(f"UPDATE runs SET {column} = COALESCE(({newest.format(of)}), 0)")


def downgrade() -> None:
    op.drop_column('selections', 'waited')
    op.drop_column('selections', 'epoch')
    op.drop_index('ix_runs_touched', 'runs')
    op.drop_column('runs', 'touched')
    op.drop_column('runs', 'wanted')
    op.drop_column('runs', 'trained_through')
    op.drop_column('runs', 'model_version')
    op.drop_column('runs', 'revision')
    op.drop_column('runs', 'epoch')
    op.drop_column('receipts', 'log_position')
    op.drop_table('superseded_steps')
    op.drop_index(op.f('ix_superseded_selections_run_id_epoch_first_draw'), 'superseded_selections')
    op.drop_table('superseded_selections')
    op.drop_table('superseded_outcomes')
    op.drop_table('snapshots')
    op.drop_table('restores')
    op.drop_index(op.f('ix_leases_holder'), 'leases')
    op.drop_table('leases')
    op.drop_table('workers')
