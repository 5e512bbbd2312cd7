//! The closed sets of names that clients and the ledger both see. Renaming one breaks both.

/// The text is none of the names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not one of the known names")]
pub struct UnknownWord;

/// Declares an enum whose variants have fixed names.
macro_rules! words {
    ($(#[doc = $doc:literal])* $name:ident {
        $($(#[doc = $variant_doc:literal])* $variant:ident = $text:literal),+ $(,)?
    }) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[doc = $variant_doc])* $variant),+ }

        impl $name {
            /// Every one, in the order of declaration.
            #[allow(dead_code, reason = "not every set is listed outside of tests")]
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// What the set is, as above it in the source.
            #[allow(dead_code, reason = "not every set is a part of the API's document")]
            pub const ABOUT: &str = concat!($($doc),*).trim_ascii();

            /// Its name.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// What it means, as above it in the source.
            #[allow(dead_code, reason = "not every set is a part of the API's document")]
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($variant_doc),*).trim_ascii()),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::words::UnknownWord;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text { $($text => Ok(Self::$variant),)+ _ => Err($crate::words::UnknownWord) }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(|_| {
                    let names: Vec<&str> = Self::ALL.iter().map(|word| word.as_str()).collect();
                    serde::de::Error::custom(format_args!("must be one of: {}", names.join(", ")))
                })
            }
        }
    };
}

pub(crate) use words;

words!(
    /// What runs code.
    Runtime {
        /// A WASI guest.
        Wasm = "wasm",
        /// CPython, Node, bash in a root filesystem of their own.
        Native = "native",
    }
);

words!(
    /// What code is written in.
    Language {
        /// Python.
        Python = "python",
        /// JavaScript.
        JavaScript = "javascript",
        /// TypeScript.
        TypeScript = "typescript",
        /// A shell.
        Bash = "bash",
        /// Actions of a browser, as JSON.
        Browser = "browser",
        /// One program and its arguments, as JSON.
        Command = "command",
        /// A shell at a terminal.
        Terminal = "terminal",
    }
);

impl Language {
    /// Whether each of its executions has a context of its own, which ends with it and has no name for others.
    pub fn stands_alone(self) -> bool {
        matches!(self, Self::Command | Self::Terminal)
    }
}

words!(
    /// Which interpreter of a language, where there are several.
    Engine {
        /// QuickJS-ng.
        QuickJs = "quickjs",
        /// Boa.
        Boa = "boa",
    }
);

impl Engine {
    /// Where a request names none.
    pub const DEFAULT: Self = Self::QuickJs;
}

words!(
    /// Where a session is in its life.
    SessionStatus {
        /// Takes executions.
        Active = "active",
        /// Takes nothing more; what it owned is being given back.
        Closing = "closing",
        /// Over.
        Closed = "closed",
    }
);

words!(
    /// Why a session is over.
    CloseReason {
        /// Somebody ended it.
        Client = "client",
        /// Its time was over.
        Expired = "expired",
        /// Nothing happened in it for as long as it allows.
        Idle = "idle",
        /// Its tenant was disabled.
        Disabled = "disabled",
        /// The service was stopped.
        Shutdown = "shutdown",
        /// The machine was restarted.
        HostRestart = "host_restart",
        /// The warden died with everything in it.
        Lost = "lost",
    }
);

words!(
    /// Where an execution is, or what became of it.
    ExecutionStatus {
        /// Waits or runs.
        Running = "running",
        /// The program came to its end.
        Succeeded = "succeeded",
        /// The program failed.
        Failed = "failed",
        /// Its time was over.
        TimedOut = "timed_out",
        /// By the client.
        Cancelled = "cancelled",
        /// A limit ended it.
        LimitExceeded = "limit_exceeded",
        /// Our fault; never billed.
        Lost = "lost",
    }
);

words!(
    /// What is limited.
    LimitName {
        /// Memory.
        Memory = "memory",
        /// Processor time.
        Cpu = "cpu",
        /// Output.
        Output = "output",
        /// Processes.
        Processes = "processes",
        /// The workspace.
        Disk = "disk",
    }
);

words!(
    /// What a record is for.
    RecordKind {
        /// One execution.
        Execution = "execution",
        /// What a session's interpreters used between and after executions.
        Standing = "standing",
        /// A browser: how long it was its session's, and what it used between and after its actions.
        Browser = "browser",
        /// Bytes to and from the network: of one execution, or, without one, what came between and after them.
        Egress = "egress",
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_round_trips() {
        for &status in ExecutionStatus::ALL {
            assert_eq!(status.as_str().parse(), Ok(status));
            let json = serde_json::to_string(&status).unwrap();
            assert_eq!(serde_json::from_str::<ExecutionStatus>(&json).unwrap(), status);
        }
        assert_eq!("Python".parse::<Language>(), Err(UnknownWord));
    }
}
