//! The sandbox, or in tests of the service a model of it with the same face.

#[cfg(not(test))]
pub use anchorhold_sandbox::{Sandbox, Session};

#[cfg(test)]
pub use super::tests::model::{Sandbox, Session};
