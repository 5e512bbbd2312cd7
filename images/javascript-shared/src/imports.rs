//! `import … from '…'` at the head of a program.
//!
//! Import declarations belong to modules, and an execution is a script, because a module's bindings would be
//! gone with it. Programs begin with them all the same, so those at the head are turned into what they mean
//! here: `import fs, { join as j } from 'x'` becomes `const { default: fs, join: j } = await import('x')`, on the
//! same lines. This is a parser of the grammar's `ImportDeclaration`; what it does not know, it leaves alone.

use std::fmt::Write;

/// Rewrites the import declarations that `source` begins with.
#[must_use]
pub fn rewrite(source: String) -> String {
    if !source.contains("import") {
        return source;
    }
    let mut output = String::new();
    let mut parser = Parser { rest: &source };
    loop {
        let before = parser.rest;
        parser.skip_trivia();
        let declaration = parser.rest;
        let trivia = &before[..before.len() - declaration.len()];
        output.push_str(trivia);
        let Some(import) = parser.declaration() else {
            output.push_str(declaration);
            return output;
        };
        let text = &declaration[..declaration.len() - parser.rest.len()];
        output.push_str(&import.as_statement());
        output.extend(text.matches('\n'));
    }
}

#[derive(Default)]
struct Import<'s> {
    /// `name` of `* as name`.
    namespace: Option<&'s str>,
    /// Exported and local names, as written.
    names: Vec<(&'s str, &'s str)>,
    /// Quoted, as written.
    specifier: &'s str,
    /// `{ type: 'json' }`, as written.
    attributes: Option<&'s str>,
}

impl Import<'_> {
    fn as_statement(&self) -> String {
        let options =
            self.attributes.map(|it| format!(", {{ with: {} }}", it.replace('\n', " "))).unwrap_or_default();
        let import = format!("await import({}{options})", self.specifier);
        let names = self.names.iter().fold(String::new(), |mut list, (exported, local)| {
            // Writing to a string cannot fail.
            write!(list, "{exported}: {local}, ").ok();
            list
        });
        match (self.namespace, names.is_empty()) {
            (Some(namespace), true) => format!("const {namespace} = {import};"),
            (Some(namespace), false) => format!("const {namespace} = {import}, {{ {names}}} = {namespace};"),
            (None, false) => format!("const {{ {names}}} = {import};"),
            (None, true) => format!("{import};"),
        }
    }
}

struct Parser<'s> {
    rest: &'s str,
}

impl<'s> Parser<'s> {
    /// One declaration. The cursor only moves when there is one.
    fn declaration(&mut self) -> Option<Import<'s>> {
        let start = self.rest;
        let import = self.import();
        if import.is_none() {
            self.rest = start;
        }
        import
    }

    fn import(&mut self) -> Option<Import<'s>> {
        self.word("import")?;
        let mut import = Import::default();
        if let Some(specifier) = self.string() {
            import.specifier = specifier;
        } else {
            self.clause(&mut import)?;
            self.word("from")?;
            import.specifier = self.string()?;
        }
        if self.word("with").is_some() {
            import.attributes = Some(self.braces()?);
        }
        self.end_of_statement()?;
        Some(import)
    }

    /// `a`, `{ b, c as d }`, `* as e`, or the first with one of the others.
    fn clause(&mut self, import: &mut Import<'s>) -> Option<()> {
        if let Some(default) = self.identifier() {
            import.names.push(("default", default));
            if self.symbol(',').is_none() {
                return Some(());
            }
        }
        if self.symbol('*').is_some() {
            self.word("as")?;
            import.namespace = Some(self.identifier()?);
            return Some(());
        }
        self.symbol('{')?;
        while self.symbol('}').is_none() {
            import.names.push(self.named()?);
            if self.symbol(',').is_none() {
                return self.symbol('}');
            }
        }
        Some(())
    }

    fn named(&mut self) -> Option<(&'s str, &'s str)> {
        let exported = self.string().or_else(|| self.identifier())?;
        let local = if self.word("as").is_some() { self.identifier()? } else { exported };
        Some((exported, local))
    }

    fn identifier(&mut self) -> Option<&'s str> {
        self.skip_trivia();
        let end = self.rest.find(|c: char| !is_identifier(c)).unwrap_or(self.rest.len());
        let starts_well = self.rest.starts_with(|c: char| !c.is_ascii_digit());
        (end > 0 && starts_well).then(|| self.take(end))
    }

    fn word(&mut self, word: &str) -> Option<()> {
        let start = self.rest;
        let found = self.identifier() == Some(word);
        if !found {
            self.rest = start;
        }
        found.then_some(())
    }

    fn symbol(&mut self, symbol: char) -> Option<()> {
        self.skip_trivia();
        self.rest = self.rest.strip_prefix(symbol)?;
        Some(())
    }

    /// A string on one line, with its quotes.
    fn string(&mut self) -> Option<&'s str> {
        self.skip_trivia();
        let quote = self.rest.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
        let mut escaped = false;
        for (index, c) in self.rest.char_indices().skip(1) {
            match c {
                '\n' => return None,
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                _ if c == quote => return Some(self.take(index + 1)),
                _ => {}
            }
        }
        None
    }

    /// Import attributes: no braces occur inside of them, except in strings, which nobody writes.
    fn braces(&mut self) -> Option<&'s str> {
        self.skip_trivia();
        let end = self.rest.starts_with('{').then(|| self.rest.find('}'))??;
        Some(self.take(end + 1))
    }

    /// A semicolon, a new line or the end. The new line stays for the caller to copy.
    fn end_of_statement(&mut self) -> Option<()> {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r']);
        if let Some(rest) = self.rest.strip_prefix(';') {
            self.rest = rest;
            return Some(());
        }
        let ends = self.rest.is_empty() || self.rest.starts_with(['\n', '/']);
        ends.then_some(())
    }

    fn skip_trivia(&mut self) {
        loop {
            let before = self.rest;
            self.rest = self.rest.trim_start();
            if let Some(comment) = self.rest.strip_prefix("//") {
                self.rest = &comment[comment.find('\n').unwrap_or(comment.len())..];
            } else if let Some(comment) = self.rest.strip_prefix("/*") {
                match comment.find("*/") {
                    Some(end) => self.rest = &comment[end + 2..],
                    None => return,
                }
            }
            if self.rest.len() == before.len() {
                return;
            }
        }
    }

    fn take(&mut self, len: usize) -> &'s str {
        let (taken, rest) = self.rest.split_at(len);
        self.rest = rest;
        taken
    }
}

fn is_identifier(c: char) -> bool {
    c == '_' || c == '$' || c.is_alphanumeric()
}
