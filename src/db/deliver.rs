//! Delivery: what each sink has been given, what it refused, what is to be sent again.

use super::{DbError, Tx};

impl Tx {
    /// Takes these items out of what is still to be delivered.
    pub(super) async fn undeliver(&mut self, _items: &[i64]) -> Result<(), DbError> {
        Ok(())
    }
}
