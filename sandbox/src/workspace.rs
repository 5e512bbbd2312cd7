//! Where a file is in a workspace, as far as text can say.

use std::fmt;
use std::str::FromStr;

/// The longest path, in bytes.
const PATH_BYTES_MAX: usize = 4096;
/// The longest component, in bytes: what the kernel's filesystems take.
const COMPONENT_BYTES_MAX: usize = 255;
/// The most components.
const DEPTH_MAX: usize = 64;
/// Where guests see the workspace.
const ROOT: &str = "/workspace";

/// A path below the workspace: relative, without `.`, `..`, empty components or NUL. Whether links lead elsewhere is
/// for the files cell to see. The empty path is the workspace itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkspacePath(String);

impl WorkspacePath {
    /// The workspace itself.
    pub fn root() -> Self {
        Self(String::new())
    }

    /// Relative to the workspace, without a leading or trailing slash; empty for the workspace itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the workspace itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for WorkspacePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is no path in a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Absolute, but not below `/workspace`.
    #[error("an absolute path must be below /workspace")]
    Outside,
    /// An empty component, `.` or `..`.
    #[error("a path has no empty components and no `.` or `..`")]
    Component,
    /// A NUL.
    #[error("a path has no NUL")]
    Nul,
    /// Longer than 4,096 bytes, a component longer than 255, or deeper than 64.
    #[error("the path is too long or too deep")]
    TooLong,
}

impl FromStr for WorkspacePath {
    type Err = PathError;

    /// Takes relative paths and absolute ones below `/workspace`. One trailing slash is ignored.
    fn from_str(text: &str) -> Result<Self, PathError> {
        if text.len() > PATH_BYTES_MAX {
            return Err(PathError::TooLong);
        }
        if text.contains('\0') {
            return Err(PathError::Nul);
        }
        let relative = match text.strip_prefix(ROOT) {
            Some("") => "",
            Some(rest) if rest.starts_with('/') => &rest[1..],
            _ if text.starts_with('/') => return Err(PathError::Outside),
            _ => text,
        };
        let relative = relative.strip_suffix('/').unwrap_or(relative);
        if relative.is_empty() {
            // "/" alone was refused above; "" and "/workspace/" are the workspace.
            return Ok(Self::root());
        }
        if relative.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(PathError::Component);
        }
        if relative.split('/').count() > DEPTH_MAX
            || relative.split('/').any(|part| part.len() > COMPONENT_BYTES_MAX)
        {
            return Err(PathError::TooLong);
        }
        Ok(Self(relative.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<String, PathError> {
        text.parse::<WorkspacePath>().map(|path| path.as_str().to_owned())
    }

    #[test]
    fn what_is_a_path() {
        for (text, path) in [
            ("a", "a"),
            ("a/b.txt", "a/b.txt"),
            ("/workspace/a", "a"),
            ("/workspace", ""),
            ("/workspace/", ""),
            ("", ""),
            ("dir/", "dir"),
            ("..a/...", "..a/..."),
            ("workspace/a", "workspace/a"),
            ("päth/文件", "päth/文件"),
        ] {
            assert_eq!(parse(text), Ok(path.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_not() {
        for (text, why) in [
            ("/", PathError::Outside),
            ("/etc/passwd", PathError::Outside),
            ("/workspaces", PathError::Outside),
            ("/workspace/../etc", PathError::Component),
            ("/workspace//etc", PathError::Component),
            ("..", PathError::Component),
            ("a/../b", PathError::Component),
            ("a/./b", PathError::Component),
            ("a//b", PathError::Component),
            ("a\0b", PathError::Nul),
        ] {
            assert_eq!(parse(text), Err(why), "{text}");
        }
        assert_eq!(parse(&"x".repeat(256)), Err(PathError::TooLong));
        assert_eq!(parse(&"x/".repeat(2100)), Err(PathError::TooLong));
        assert_eq!(parse(&vec!["x"; 65].join("/")), Err(PathError::TooLong));
        assert!(parse(&vec!["x"; 64].join("/")).is_ok());
    }

    proptest! {
        #[test]
        fn no_path_leaves_and_every_path_is_its_own_text(text in "(/workspace)?[./a-c\0é]{0,24}") {
            if let Ok(path) = text.parse::<WorkspacePath>() {
                let parts: Vec<&str> = path.as_str().split('/').collect();
                prop_assert!(path.is_root() || parts.iter().all(|part| !matches!(*part, "" | "." | "..")));
                prop_assert!(!path.as_str().contains('\0') && !path.as_str().starts_with('/'));
                // A file named `workspace` at the top is relative, so the text is not cut a second time.
                prop_assert_eq!(path.as_str().parse::<WorkspacePath>(), Ok(path.clone()));
            }
        }

        #[test]
        fn the_parser_never_panics(text in any::<String>()) {
            let _parsed: Result<WorkspacePath, _> = text.parse();
        }
    }
}
