"""states of runs and pools, prompts known by their key, subsets, evidence in parts, events

Revision: 0005
After: 0004
"""

import sqlalchemy as sa
from alembic import op


revision = '0005'
down_revision = '0004'
branch_labels = None
depends_on = None

OUTCOMES = {
    'outcomes': ('run_id', 'draw', 'rollout'),
    'superseded_outcomes': ('run_id', 'superseded_in', 'draw', 'rollout'),
}

# What hangs on a run and on a pool, in an order in which it can go.
OWNED = {
    'runs': ('run_id', (
        'leases', 'run_segments', 'run_subsets', 'selections', 'outcomes', 'receipts',
        'model_versions', 'steps',
        'snapshots', 'restores', 'superseded_selections', 'superseded_outcomes', 'superseded_steps',
    )),
    'pools': ('pool_id', ('prompts', 'prompt_aliases', 'pool_chunks')),
}


def upgrade() -> None:
    op.create_table('events',
    sa.Column('id', sa.Integer(), nullable=False),
    sa.Column('created_at', sa.String(length=32), nullable=False),
    sa.Column('key', sa.String(length=128), nullable=True),
    sa.Column('action', sa.String(length=32), nullable=False),
    sa.Column('run', sa.String(length=128), nullable=True),
    sa.Column('pool', sa.String(length=128), nullable=True),
    sa.Column('subject_id', sa.Integer(), nullable=True),
    sa.Column('detail', sa.JSON(), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_events'))
    )
    op.create_index(op.f('ix_events_run'), 'events', ['run'], unique=False)
    op.create_index(op.f('ix_events_pool'), 'events', ['pool'], unique=False)
    op.create_index('ix_events_action_subject_id', 'events', ['action', 'subject_id'], unique=False)
    op.create_table('prompt_aliases',
    sa.Column('pool_id', sa.Integer(), nullable=False),
    sa.Column('ordinal', sa.Integer(), nullable=False),
    sa.Column('key', sa.String(length=512), nullable=False),
    sa.Column('position', sa.Integer(), nullable=False),
    sa.ForeignKeyConstraint(['pool_id'], ['pools.id'], name=op.f('fk_prompt_aliases_pool_id')),
    sa.PrimaryKeyConstraint('pool_id', 'ordinal', name=op.f('pk_prompt_aliases')),
    sa.UniqueConstraint('pool_id', 'key', name=op.f('uq_prompt_aliases_pool_id_key'))
    )
    op.create_table('run_subsets',
    sa.Column('run_id', sa.Integer(), nullable=False),
    sa.Column('id', sa.String(length=32), nullable=False),
    sa.Column('size', sa.Integer(), nullable=False),
    sa.Column('rows', sa.LargeBinary(), nullable=False),
    sa.Column('created_at', sa.String(length=32), nullable=False),
    sa.ForeignKeyConstraint(['run_id'], ['runs.id'], name=op.f('fk_run_subsets_run_id')),
    sa.PrimaryKeyConstraint('run_id', 'id', name=op.f('pk_run_subsets'))
    )
    op.create_table('write_probes',
    sa.Column('id', sa.Integer(), nullable=False),
    sa.Column('room', sa.LargeBinary(), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_write_probes'))
    )
    for table in ('runs', 'pools'):
        op.add_column(
            table,
            sa.Column(
                'state', sa.String(length=16), server_default=sa.text("'open'"), nullable=False
            ),
        )
    op.add_column(
        'pools', sa.Column('aliases', sa.Integer(), server_default=sa.text('0'), nullable=False)
    )
    op.add_column('runs', sa.Column('fault', sa.Text(), nullable=True))
    op.add_column('api_keys', sa.Column('revoked_at', sa.String(length=32), nullable=True))
    with op.batch_alter_table('prompts') as batch_op:
        batch_op.drop_constraint(op.f('uq_prompts_pool_id_digest'), type_='unique')
        batch_op.create_index(
            'ix_prompts_pool_id_digest', ['pool_id', 'digest', 'position'], unique=False
        )
    for table, columns in OUTCOMES.items():
        name = '_'.join(['uq', table, *columns])
        with op.batch_alter_table(table) as batch_op:
            batch_op.add_column(
                sa.Column('part', sa.SmallInteger(), server_default=sa.text('0'), nullable=False)
            )
            batch_op.drop_constraint(op.f(name), type_='unique')
            batch_op.create_unique_constraint(op.f(f'{name}_part'), [*columns, 'part'])
    with op.batch_alter_table('superseded_outcomes') as batch_op:
        batch_op.alter_column('part', server_default=None)


def drop_hidden() -> None:
    """Drop what is deleted and not all gone yet, or half imported.

    Without states everybody would see it.
    """
    for head, (owner, tables) in OWNED.items():
        hidden = f"SELECT id FROM {head} WHERE state IN ('deleting', 'importing')"
        for table in tables:
            op.execute(f'DELETE FROM {table} WHERE {owner} IN ({hidden})')
        op.execute(f"DELETE FROM {head} WHERE state IN ('deleting', 'importing')")


def downgrade() -> None:
    drop_hidden()
    for table, columns in OUTCOMES.items():
        name = '_'.join(['uq', table, *columns])
        with op.batch_alter_table(table) as batch_op:
            batch_op.drop_constraint(op.f(f'{name}_part'), type_='unique')
            batch_op.create_unique_constraint(op.f(name), list(columns))
            batch_op.drop_column('part')
    with op.batch_alter_table('prompts') as batch_op:
        batch_op.drop_index('ix_prompts_pool_id_digest')
        batch_op.create_unique_constraint(op.f('uq_prompts_pool_id_digest'), ['pool_id', 'digest'])
    op.drop_column('api_keys', 'revoked_at')
    op.drop_column('runs', 'fault')
    op.drop_column('pools', 'aliases')
    for table in ('pools', 'runs'):
        op.drop_column(table, 'state')
    op.drop_table('write_probes')
    op.drop_table('run_subsets')
    op.drop_table('prompt_aliases')
    op.drop_index(op.f('ix_events_pool'), 'events')
    op.drop_index('ix_events_action_subject_id', 'events')
    op.drop_index(op.f('ix_events_run'), 'events')
    op.drop_table('events')
