//! Puts generated code where its source was.
//!
//! The code generator has a layout of its own and tells by a source map what came from where. Here every piece goes back
//! to the line and the column that it had. So all positions are the source's without anybody looking at a map: in
//! tracebacks, in what a program prints itself, and of functions that an earlier execution declared. Removing types only
//! shortens code, so most columns are free; a piece whose column is taken follows as near as it can, on its line.

/// No newline may stand behind these words: the grammar says so, or some parsers do.
const HOLDING_WORDS: [&str; 10] =
    ["return", "throw", "break", "continue", "yield", "async", "using", "get", "set", "static"];

/// Where a piece of code begins: in the generated code and in the source, each as line and column, as source maps count
/// (from 0, columns in UTF-16 units).
#[derive(Debug, Clone, Copy)]
pub struct Piece {
    /// In the generated code.
    pub generated: (u32, u32),
    /// In the source.
    pub source: (u32, u32),
}

/// Code as far as it is laid out.
#[derive(Debug)]
pub struct Layout {
    code: String,
    /// Where its end is.
    line: u32,
    column: u32,
    /// The generator had a newline here.
    gap: bool,
    /// Tabs that follow indent.
    indenting: bool,
    /// Stands for a newline that belongs to the program.
    newline: char,
}

impl Layout {
    /// `newline` stands for newlines within templates.
    pub fn new(newline: char) -> Self {
        Self { code: String::new(), line: 0, column: 0, gap: false, indenting: false, newline }
    }

    /// Lays out generated code. No piece may begin within a string or a template.
    pub fn lay_out(&mut self, generated: &str, pieces: impl Iterator<Item = Piece>) {
        let mut pieces = pieces.peekable();
        for (number, line) in (0u32..).zip(generated.split('\n')) {
            if number > 0 {
                (self.gap, self.indenting) = (true, true);
            }
            let mut at = Cursor { rest: line, column: 0 };
            while let Some(piece) = pieces.next_if(|piece| piece.generated.0 <= number) {
                self.append(at.up_to(piece.generated.1));
                self.place(piece.source, at.rest);
            }
            self.append(at.rest);
        }
    }

    /// The code.
    pub fn finish(mut self) -> String {
        self.code.push('\n');
        self.code
    }

    fn append(&mut self, piece: &str) {
        for c in piece.chars() {
            if self.indenting && c == '\t' {
                continue;
            }
            self.indenting = false;
            if std::mem::take(&mut self.gap) && self.column > 0 {
                self.push(' ');
            }
            self.push(if c == self.newline { '\n' } else { c });
        }
    }

    fn push(&mut self, c: char) {
        self.code.push(c);
        if c == '\n' {
            (self.line, self.column) = (self.line + 1, 0);
        } else {
            self.column += if c > '\u{ffff}' { 2 } else { 1 };
        }
    }

    /// Moves on to where the next piece was.
    fn place(&mut self, (line, column): (u32, u32), next: &str) {
        if line > self.line && self.may_break_before(next) {
            (self.line..line).for_each(|_| self.push('\n'));
            self.gap = false;
        }
        if line == self.line && column > self.column {
            (self.column..column).for_each(|_| self.push(' '));
            self.gap = false;
        }
    }

    fn may_break_before(&self, next: &str) -> bool {
        let before = self.code.trim_end();
        let held = HOLDING_WORDS.iter().any(|word| {
            let front = before.strip_suffix(word);
            front.is_some_and(|front| !front.ends_with(|c: char| c.is_alphanumeric() || "_$.#".contains(c)))
        });
        let postfix = (next.starts_with("++") || next.starts_with("--"))
            && before.ends_with(|c: char| c.is_alphanumeric() || "_$)]".contains(c));
        !held && !postfix && !next.starts_with("=>")
    }
}

/// What is left of a line of generated code.
struct Cursor<'a> {
    rest: &'a str,
    column: u32,
}

impl<'a> Cursor<'a> {
    fn up_to(&mut self, column: u32) -> &'a str {
        let mut end = 0;
        for c in self.rest.chars() {
            if self.column >= column {
                break;
            }
            self.column += if c > '\u{ffff}' { 2 } else { 1 };
            end += c.len_utf8();
        }
        let (piece, rest) = self.rest.split_at(end);
        self.rest = rest;
        piece
    }
}
