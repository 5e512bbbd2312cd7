use super::*;
use crate::engine::HOST_STACK_BYTES;

fn javascript(source: &str) -> String {
    to_javascript(source).unwrap_or_else(|error| panic!("{error:?}"))
}

fn place(source: &str) -> (usize, usize) {
    let place = to_javascript(source).unwrap_err().place.unwrap();
    (place.line, place.column)
}

/// Where a piece of a text is: line and column.
fn at(text: &str, piece: &str) -> Option<(usize, usize)> {
    text.lines().enumerate().find_map(|(line, text)| Some((line, text.find(piece)?)))
}

#[test]
fn types_go_and_everything_else_stays_where_it_was() {
    for (source, expected, piece) in [
        ("let x: number = 12;", "let x = 12;", "12"),
        ("f<number>(xy)!", "f(xy);", "xy"),
        ("let y = x as any as string; last()", "let y = x; last();", "last"),
        ("interface A { x: number }\ntype B = A;\nlet z = 2;", "let z = 2;", "z"),
        ("let t = `a\n${1}\nb`;\nlet u: string = t;", "let t = `a ${1} b`; let u = t;", "u"),
        ("export const q: number = 1;", "const q = 1;", "q"),
    ] {
        let code = javascript(source);
        let dense = |text: &str| text.split_whitespace().collect::<String>().trim_end_matches(';').to_owned();
        assert_eq!(dense(&code), dense(expected), "{source}");
        assert_eq!(at(&code, piece), at(source, piece), "{source}: {code}");
    }
}

#[test]
fn lines_stay_whatever_is_added() {
    let source =
        "enum Color {\n  Red,\n  Green = 'g',\n}\nclass P {\n  constructor(public x: number) {}\n}\nmark()";
    let line = javascript(source).lines().position(|line| line.contains("mark()"));
    assert_eq!(line, Some(7));
}

#[test]
fn mistakes_have_their_places() {
    assert_eq!(place("let x: number = ;"), (1, 17));
    assert_eq!(place("let a = 1;\n  let ü: = 2;").0, 2);
    assert_eq!(place("class A {\n  @d m() {}\n}"), (2, 3));
    let json = to_javascript("let x: = 1").unwrap_err().to_json("<execution 3>");
    let error: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(error["name"], "SyntaxError");
    assert!(error["traceback"].as_str().unwrap().contains("<execution 3>:1:"), "{error}");
}

#[test]
fn nothing_that_is_no_typescript_panics() {
    for source in ["", "\0", "`${", "/*", "\u{feff}", "a => {", "<", "@", "enum", "\u{e000}\u{e001}", "'\n"] {
        let _either = to_javascript(source);
    }
}

/// What is let through is parsed on half of the stack that a cell has, whatever it nests.
#[test]
fn what_is_let_through_fits_the_stack() {
    for (kind, make) in nestings() {
        let most =
            (1..=17).map(|bits| (1usize << bits) - 1).take_while(|&n| nesting::too_deep(&make(n)).is_none());
        let source = make(most.last().unwrap_or(0));
        let parsing = std::thread::Builder::new().stack_size(HOST_STACK_BYTES / 2);
        let parsed = parsing.spawn(move || to_javascript(&source).map(|code| code.len())).unwrap().join();
        assert!(parsed.is_ok(), "{kind}");
    }
}

/// Neighbours that no separator ends look like depth, so there must be room for many.
#[test]
fn long_programs_without_semicolons_are_let_through() {
    for line in ["console.log(list[0], 1)\n", "function f(a: number): number { return a }\n"] {
        assert_eq!(nesting::too_deep(&line.repeat(3_000)), None, "{line}");
    }
}

#[test]
fn what_is_nested_too_deeply_is_refused() {
    for source in ["(".repeat(100_000), "[".repeat(1 << 20), "let x: ".to_owned() + &"A<".repeat(100_000)] {
        assert_eq!(to_javascript(&source).unwrap_err().message, "the source is nested too deeply");
    }
}

/// So many levels of one kind.
type Make = Box<dyn Fn(usize) -> String>;

fn nestings() -> Vec<(&'static str, Make)> {
    fn around(open: &'static str, inner: &'static str, close: &'static str) -> Make {
        Box::new(move |n| format!("{}{inner}{}", open.repeat(n), close.repeat(n)))
    }
    vec![
        ("paren", around("(", "1", ")")),
        ("array", around("[", "1", "]")),
        ("block", around("{", "", "}")),
        ("object", around("({a:", "1", "})")),
        ("not", around("!", "1", "")),
        ("typeof", around("typeof ", "1", "")),
        ("arrow", around("x=>", "1", "")),
        ("assign", around("a=", "1", "")),
        ("ternary", around("a?", "1", ":1")),
        ("ternary right", around("a?b:", "1", "")),
        ("plus", around("1+", "1", "")),
        ("power", around("a**", "1", "")),
        ("member", around("", "a", ".b")),
        ("call", around("", "f", "()")),
        ("index", around("", "f", "[0]")),
        ("bang", around("", "f", "!")),
        ("as", around("", "f", " as any")),
        ("if", around("if(a)", "b", "")),
        ("else", around("if(a);else ", "b", "")),
        ("for", around("for(;;)", "b", "")),
        ("while", around("while(a)", "b", "")),
        ("label", Box::new(|n| (0..n).map(|i| format!("l{i}:")).collect::<String>() + "b")),
        ("function", around("function f(){", "", "}")),
        ("function expression", around("(function(){", "", "})")),
        ("class", around("class A extends class{", "", "}{}")),
        ("template", around("`${", "1", "}`")),
        ("new", around("new ", "a", "")),
        ("generic", around("let x:A<", "1", "").into_type(">")),
        ("generic two", around("", "", "").nested("let x:", "A<1,", "1", ">")),
        ("type array", around("", "", "").nested("let x:1", "[]", "", "")),
        ("keyof", around("", "", "").nested("let x:", "keyof ", "1", "")),
        ("conditional", around("", "", "").nested("type X=", "A extends B?C:", "1", "")),
        ("type paren", around("", "", "").nested("let x:", "(", "1", ")")),
        ("type object", around("", "", "").nested("let x:", "{a:", "1", "}")),
        ("function type", around("", "", "").nested("let x:", "()=>", "1", "")),
        ("pattern", around("", "", "").nested("let ", "[", "a", "]").append("=b")),
        ("namespace", around("namespace A{", "", "}")),
        ("await", around("await ", "1", "")),
        ("optional", around("", "a", "?.b")),
        ("spread", around("[...", "1", "]")),
        ("async arrow", around("async()=>", "1", "")),
        ("decorator", around("@(", "a", ")").append(" class A{}")),
        ("comma call", around("f(1,", "1", ")")),
        ("switch", around("switch(a){case 1:", "", "}")),
        ("try", around("try{", "", "}catch{}")),
        ("do", around("do ", "b", ";while(1)")),
    ]
}

trait Shapes {
    fn into_type(self, close: &'static str) -> Self;
    fn nested(
        self,
        before: &'static str,
        open: &'static str,
        inner: &'static str,
        close: &'static str,
    ) -> Self;
    fn append(self, text: &'static str) -> Self;
}

impl Shapes for Make {
    fn into_type(self, close: &'static str) -> Self {
        Box::new(move |n| format!("let x:{}1{}", "A<".repeat(n), close.repeat(n)))
    }
    fn nested(
        self,
        before: &'static str,
        open: &'static str,
        inner: &'static str,
        close: &'static str,
    ) -> Self {
        Box::new(move |n| format!("{before}{}{inner}{}", open.repeat(n), close.repeat(n)))
    }
    fn append(self, text: &'static str) -> Self {
        Box::new(move |n| self(n) + text)
    }
}
