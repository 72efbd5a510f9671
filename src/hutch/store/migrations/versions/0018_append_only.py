"""The database itself keeps the audit log append-only: records come at the end of their chain, are never changed, and
go only where a record says that they went (`audit.trimmed`). Of the signed heads the newest stays."""

from __future__ import annotations

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

# Whether what the record says is signed, only who has the public key can tell: `verify` does. The record's subject is
# its organisation, which makes this a look into an index.
_TRIMMED = """
    SELECT 1 FROM audit_records
    WHERE org = OLD.org AND subject = OLD.org AND seq > OLD.seq AND action = 'audit.trimmed' AND {through} >= OLD.seq
"""
_OUT_OF_TURN = "NEW.seq <> (SELECT coalesce(max(seq), 0) + 1 FROM audit_records WHERE org = NEW.org)"
_NEWER = "SELECT 1 FROM audit_heads WHERE org = OLD.org AND seq > OLD.seq"

_RULES = (
    ("audit_records", "INSERT", _OUT_OF_TURN, "a record of the audit log can only be added at its end"),
    ("audit_records", "UPDATE", "true", "a record of the audit log cannot be changed"),
    ("audit_records", "DELETE", f"NOT EXISTS ({_TRIMMED})", "a record of the audit log cannot be removed"),
    ("audit_heads", "UPDATE", "true", "a head of the audit log cannot be changed"),
    ("audit_heads", "DELETE", f"NOT EXISTS ({_NEWER})", "the newest head of the audit log cannot be removed"),
)


def upgrade() -> None:
    make = _sqlite if op.get_bind().dialect.name == "sqlite" else _postgresql
    for table, act, refused, why in _RULES:
        make(table, act, refused, why)
    if op.get_bind().dialect.name == "postgresql":
        for table in ("audit_records", "audit_heads"):
            _postgresql(table, "TRUNCATE", "true", "the audit log cannot be emptied", each="STATEMENT")


def downgrade() -> None:
    acts = {table: [act for of, act, _, _ in _RULES if of == table] for table, *_ in _RULES}
    if op.get_bind().dialect.name == "sqlite":
        for table, of_table in acts.items():
            for act in of_table:
                op.execute(f"DROP TRIGGER {_name(table, act)}")
        return
    for table, of_table in acts.items():
        for act in (*of_table, "TRUNCATE"):
            op.execute(f"DROP FUNCTION {_name(table, act)}() CASCADE")


def _name(table: str, act: str) -> str:
    return f"{table}_{act.lower()}"


def _sqlite(table: str, act: str, refused: str, why: str) -> None:
    refused = refused.format(through="json_extract(detail, '$.through')")
    op.execute(
        f"CREATE TRIGGER {_name(table, act)} BEFORE {act} ON {table} WHEN {refused} "
        f"BEGIN SELECT RAISE(ABORT, '{why}'); END"
    )


def _postgresql(table: str, act: str, refused: str, why: str, each: str = "ROW") -> None:
    refused = refused.format(through="(detail ->> 'through')::bigint")
    goes_on = {"INSERT": "NEW", "DELETE": "OLD"}.get(act, "NULL")
    op.execute(
        f"CREATE FUNCTION {_name(table, act)}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF {refused} THEN RAISE EXCEPTION '{why}' USING ERRCODE = 'integrity_constraint_violation'; END IF; "
        f"RETURN {goes_on}; END $$"
    )
    name = _name(table, act)
    op.execute(f"CREATE TRIGGER {name} BEFORE {act} ON {table} FOR EACH {each} EXECUTE FUNCTION {name}()")
