//! Keys of rows. Each is a type of its own, so that none is taken for another.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Arg;

macro_rules! keys {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, sqlx::Type)]
        #[serde(transparent)]
        #[sqlx(transparent)]
        pub struct $name(pub i64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$name> for Arg {
            fn from(key: $name) -> Arg {
                key.0.into()
            }
        }

        impl From<Option<$name>> for Arg {
            fn from(key: Option<$name>) -> Arg {
                key.map(|key| key.0).into()
            }
        }
    )+};
}

keys! {
    /// Key of a row of table `account`.
    AccountKey,
    /// Key of a row of table `sink`.
    SinkKey,
}

impl AccountKey {
    /// Stands for all accounts as an argument.
    pub(crate) const ALL: AccountKey = AccountKey(-1);
}
