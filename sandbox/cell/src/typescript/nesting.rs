//! How deep a parser would recurse, told before it does.
//!
//! Each level of a syntax tree takes a token, and ends with the statement or the list element that it belongs to. So no
//! tree is deeper than the tokens since the last `;` or `,`, summed over the brackets that are open. Programs with
//! semicolons stay below a thousand, and data of any size does, because its elements end. A program without semicolons
//! counts as one statement: after some thousands of lines it is refused although it is not deep.
//!
//! This is no lexer. It skips what it takes for strings, comments and regular expressions, and a source may be written
//! so that it is mistaken; such a source meets the end of the stack instead.

/// What half the stack of a cell takes with every kind of nesting (`tests::what_is_let_through_fits_the_stack`).
const DEPTH_MAX: usize = 32_000;
/// What a bracket takes, in tokens: an expression in it begins anew at the lowest precedence. As measured a token takes up
/// to 790 bytes of stack, a bracket 1,750.
const BRACKET: usize = 2;
/// After these words a `/` begins a regular expression.
const OPERATOR_WORDS: [&[u8]; 9] =
    [b"return", b"typeof", b"case", b"in", b"of", b"delete", b"void", b"throw", b"new"];

/// Where the source is nested deeper than what is let through, if it is anywhere.
pub fn too_deep(source: &str) -> Option<usize> {
    Scan { bytes: source.as_bytes(), at: 0, depth: 0, levels: vec![Level::default()], operand: false }.run()
}

/// What stands between two brackets, as far as it was read.
#[derive(Debug, Default)]
struct Level {
    /// Tokens since the last separator.
    tokens: usize,
    /// What the last `;` ended: an `else` behind it goes on with that.
    ended: usize,
    /// There was a `<`, so commas may separate arguments of types, which nest without brackets of ours.
    angle: bool,
    /// The bracket is `${`.
    template: bool,
}

#[derive(Debug)]
struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Tokens of all levels.
    depth: usize,
    levels: Vec<Level>,
    /// The last token ends an operand: a `/` behind it divides.
    operand: bool,
}

impl Scan<'_> {
    fn run(mut self) -> Option<usize> {
        while let Some(byte) = self.bytes.get(self.at).copied() {
            self.at += 1;
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' => {}
                b'"' | b'\'' => self.string(byte),
                b'`' => self.template(),
                b'/' => self.slash(),
                b'(' | b'[' | b'{' => self.open(false),
                b')' | b']' | b'}' => self.close(byte),
                b';' => self.separate(true),
                b',' => self.separate(false),
                b'<' => self.angle(),
                _ if is_word(byte) => self.word(),
                _ => self.token(1, false),
            }
            if self.depth > DEPTH_MAX {
                return Some(self.at - 1);
            }
        }
        None
    }

    fn level(&mut self) -> Option<&mut Level> {
        self.levels.last_mut()
    }

    fn token(&mut self, weight: usize, operand: bool) {
        self.depth += weight;
        if let Some(level) = self.level() {
            level.tokens += weight;
        }
        self.operand = operand;
    }

    fn word(&mut self) {
        let begin = self.at - 1;
        let length = self.bytes[begin..].iter().take_while(|byte| is_word(**byte)).count();
        self.at = begin + length;
        let word = &self.bytes[begin..self.at];
        if word == b"else" {
            let ended = self.level().map_or(0, |level| std::mem::take(&mut level.ended));
            self.token(ended, false);
        }
        self.token(1, !OPERATOR_WORDS.contains(&word));
    }

    fn angle(&mut self) {
        if let Some(level) = self.level() {
            level.angle = true;
        }
        self.token(1, false);
    }

    fn separate(&mut self, statement: bool) {
        self.operand = false;
        let Some(level) = self.levels.last_mut() else { return };
        if !statement && level.angle {
            return self.token(1, false);
        }
        self.depth -= level.tokens;
        level.ended = if statement { level.tokens } else { 0 };
        (level.tokens, level.angle) = (0, false);
    }

    fn open(&mut self, template: bool) {
        self.token(BRACKET, false);
        self.levels.push(Level { template, ..Level::default() });
    }

    fn close(&mut self, byte: u8) {
        if self.levels.len() == 1 {
            return self.token(1, true);
        }
        let Some(level) = self.levels.pop() else { return };
        self.depth -= level.tokens;
        // Behind a block a regular expression is likelier than a division.
        self.operand = byte != b'}';
        if level.template {
            self.template();
        }
    }

    /// From behind the quote to behind the other one, or to the end of the line.
    fn string(&mut self, quote: u8) {
        self.skip(quote);
        self.token(1, true);
    }

    /// From within the text of a template to its end or its next `${`.
    fn template(&mut self) {
        while let Some(byte) = self.bytes.get(self.at).copied() {
            self.at += 1;
            match byte {
                b'\\' => self.at += 1,
                b'`' => break,
                b'$' if self.bytes.get(self.at) == Some(&b'{') => {
                    self.at += 1;
                    return self.open(true);
                }
                _ => {}
            }
        }
        self.token(1, true);
    }

    fn slash(&mut self) {
        match self.bytes.get(self.at) {
            Some(b'/') => self.skip(b'\n'),
            Some(b'*') => {
                let rest = &self.bytes[self.at + 1..];
                let end = rest.windows(2).position(|two| two == b"*/");
                self.at = end.map_or(self.bytes.len(), |end| self.at + 1 + end + 2);
            }
            _ if self.operand => self.token(1, false),
            _ => {
                self.skip(b'/');
                self.token(1, true);
            }
        }
    }

    /// To behind `end`, where it is not escaped, at most to the end of the line.
    fn skip(&mut self, end: u8) {
        while let Some(byte) = self.bytes.get(self.at).copied() {
            self.at += 1;
            match byte {
                b'\\' if end != b'\n' => self.at += 1,
                b'\n' => return,
                _ if byte == end => return,
                _ => {}
            }
        }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}
