//! Identifiers: 128 random bits, written as 26 characters of `[0-9a-z]`.
//!
//! Ids become names of cgroups and keys of tables, so the parser is the only way from text to an id.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Characters of Crockford's base 32, lower case: no `i`, `l`, `o`, `u`.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// 26 characters of 5 bits hold 130 bits; the first character is therefore at most `7`.
const LENGTH: usize = 26;

/// The text is not 26 characters of the id alphabet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id is 26 characters of 0-9a-z")]
pub struct IdError;

/// 128 random bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Id(u128);

impl Id {
    /// A new id from the kernel's generator.
    pub fn random() -> Self {
        Self::from_bytes(random_bytes())
    }

    /// From 128 bits.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_le_bytes(bytes))
    }
}

/// Bytes from the kernel's random generator.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        // Fails only before the kernel's pool is seeded or by a signal: both pass.
        if let Ok(n) = rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            filled += n;
        }
    }
    bytes
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; LENGTH];
        let mut rest = self.0;
        for slot in text.iter_mut().rev() {
            *slot = ALPHABET[(rest & 31) as usize];
            rest >>= 5;
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Id {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.len() != LENGTH || text.as_bytes()[0] > b'7' {
            return Err(IdError);
        }
        text.bytes()
            .try_fold(0u128, |value, byte| {
                let digit = ALPHABET.iter().position(|&c| c == byte).ok_or(IdError)?;
                Ok(value << 5 | digit as u128)
            })
            .map(Self)
    }
}

/// Declares a newtype over [`Id`], so that a session's id cannot stand where a cell's belongs.
macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub struct $name(pub Id);

        impl $name {
            /// A new random id.
            pub fn random() -> Self {
                Self(Id::random())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                text.parse().map(Self)
            }
        }
    };
}

id_type!(
    /// A session: what a client allocates.
    SessionId
);
id_type!(
    /// A cell: one jailed process tree.
    CellId
);
id_type!(
    /// One run of code, or one file operation, in a cell.
    ExecutionId
);
id_type!(
    /// The opaque group that a session belongs to. The API means a tenant by it; the sandbox does not know.
    GroupId
);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_round_trips(bits: u128) {
            let id = Id(bits);
            prop_assert_eq!(id.to_string().parse::<Id>().unwrap(), id);
        }

        #[test]
        fn the_parser_never_panics(text in ".{0,40}") {
            let _parsed: Result<Id, _> = text.parse();
        }
    }

    #[test]
    fn refuses_what_is_not_canonical() {
        for text in [
            "",
            "8zzzzzzzzzzzzzzzzzzzzzzzzz",
            "0000000000000000000000000A",
            "0000000000000000000000000i",
            "../../../../../../../../..",
        ] {
            assert_eq!(text.parse::<Id>(), Err(IdError), "{text}");
        }
    }

    #[test]
    fn a_hundred_thousand_ids_are_distinct() {
        let ids: std::collections::HashSet<Id> = (0..100_000).map(|_| Id::random()).collect();
        assert_eq!(ids.len(), 100_000);
    }
}
