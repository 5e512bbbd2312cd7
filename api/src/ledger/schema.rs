//! The schema, as the steps that lead to it: taken in order, each once, and never changed after it was out.

use sqlx::SqlStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

const STEPS: [(&str, &str); 8] = [
    ("ledger", include_str!("../../migrations/0001_ledger.sql")),
    ("tenants", include_str!("../../migrations/0002_tenants.sql")),
    ("contexts", include_str!("../../migrations/0003_contexts.sql")),
    ("egress", include_str!("../../migrations/0004_egress.sql")),
    ("browsers", include_str!("../../migrations/0005_browsers.sql")),
    ("quotas", include_str!("../../migrations/0006_quotas.sql")),
    ("long outputs", include_str!("../../migrations/0007_long_outputs.sql")),
    ("outputs apart", include_str!("../../migrations/0008_outputs_apart.sql")),
];

/// Leads a database to the schema of this version. What `sqlx::migrate!` makes, without its macros: those compile
/// SQLite once more, for programs of their own.
pub fn migrator() -> Migrator {
    let migration = |(version, (name, sql)): (i64, (&'static str, &'static str))| {
        Migration::new(version, name.into(), MigrationType::Simple, SqlStr::from_static(sql), false)
    };
    Migrator::with_migrations((1..).zip(STEPS).map(migration).collect())
}
