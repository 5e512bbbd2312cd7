//! JavaScript of TypeScript, in the cell that will run it.
//!
//! Types are removed, not checked, and what TypeScript adds to the language (enums, namespaces, parameter properties)
//! becomes what `tsc` makes of it with `isolatedModules`; decorators are refused. Two rules are a notebook's rather than
//! a file's: imports stay unless they say `type`, because a later execution may use them, and
//! `export` before a declaration means nothing.
//!
//! The source is hostile and the parser recurses: [`nesting`] refuses what would not fit the stack before it is parsed.
//! What passes there all the same runs into the guard page and ends this cell, as any crash of an interpreter does.
//! Positions stay those of the source: see [`layout`].

mod layout;
mod nesting;

use layout::{Layout, Piece};
use oxc_allocator::{Allocator, ArenaVec, TakeIn};
use oxc_ast::ast::{
    ClassBody, ClassElement, Decorator, Program, PropertyKey, Statement, Str, TemplateElement,
};
use oxc_ast_visit::{VisitMut, walk_mut};
use oxc_codegen::{Codegen, CodegenOptions, CommentOptions};
use oxc_diagnostics::{Diagnostics, OxcDiagnostic};
use oxc_parser::{ParseOptions, Parser};
use oxc_semantic::SemanticBuilder;
use oxc_span::{GetSpan, SPAN, SourceType};
use oxc_transformer::{TransformOptions, Transformer, TypeScriptOptions};
use std::path::{Path, PathBuf};

/// A line of the source is shown with its error when it is not longer than this.
const SHOWN_LINE_BYTES: usize = 160;

/// Why a source is not TypeScript.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    message: String,
    place: Option<Place>,
}

/// Where in a source, as people count.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// From 1.
    line: usize,
    /// From 1, in characters.
    column: usize,
    /// The line itself, unless it is long.
    text: Option<String>,
}

/// What `source` means in JavaScript, every piece at its line and, where possible, its column.
pub fn to_javascript(source: &str) -> Result<String, SyntaxError> {
    if let Some(offset) = nesting::too_deep(source) {
        return Err(SyntaxError::at("the source is nested too deeply", source, offset));
    }
    let Some(newline) = unused_character(source) else {
        return Err(SyntaxError { message: "the source uses every private character".into(), place: None });
    };
    let allocator = Allocator::default();
    let options = ParseOptions { preserve_parens: false, ..ParseOptions::default() };
    let parsed =
        Parser::new(&allocator, source, SourceType::ts().with_module(true)).with_options(options).parse();
    refuse(&parsed.diagnostics, source)?;
    let mut program = parsed.program;
    program.hashbang = None;
    unwrap_exports(&mut program, &allocator);
    let mut marking = Marking { allocator: &allocator, newline, decorator: None };
    marking.visit_program(&mut program);
    if let Some(offset) = marking.decorator {
        let message = "decorators are not available in the wasm runtime";
        return Err(SyntaxError::at(message, source, offset as usize));
    }
    // Room for what the transformer adds, as its authors advise.
    let analysed = SemanticBuilder::new()
        .with_excess_capacity(2.0)
        .with_enum_eval(true)
        .with_check_syntax_error(true)
        .build(&program);
    refuse(&analysed.diagnostics, source)?;
    let scoping = analysed.semantic.into_scoping();
    let transformer_options = transform_options();
    let transformer = Transformer::new(&allocator, Path::new(""), &transformer_options);
    refuse(&transformer.build_with_scoping(scoping, &mut program).diagnostics, source)?;
    unwrap_exports(&mut program, &allocator);
    HideMoved.visit_program(&mut program);
    Ok(print(&program, newline))
}

fn transform_options() -> TransformOptions {
    TransformOptions {
        typescript: TypeScriptOptions { only_remove_type_imports: true, ..TypeScriptOptions::default() },
        ..TransformOptions::default()
    }
}

fn print(program: &Program<'_>, newline: char) -> String {
    let options = CodegenOptions {
        comments: CommentOptions::disabled(),
        source_map_path: Some(PathBuf::new()),
        ..CodegenOptions::default()
    };
    let printed = Codegen::new().with_options(options).build(program);
    let mut layout = Layout::new(newline);
    if let Some(map) = &printed.map {
        let pieces = map.get_tokens().map(|token| Piece {
            generated: (token.get_dst_line(), token.get_dst_col()),
            source: (token.get_src_line(), token.get_src_col()),
        });
        layout.lay_out(&printed.code, pieces);
    }
    layout.finish()
}

/// A character that the program has nowhere, not even written as an escape.
fn unused_character(source: &str) -> Option<char> {
    let lower = source.to_ascii_lowercase();
    let unused = |c: &char| !lower.contains(*c) && !lower.contains(&format!("{:x}", u32::from(*c)));
    ('\u{e000}'..='\u{f8ff}').find(unused)
}

/// A program is not a module: nobody imports from it. `export {}` is also what is left of a program of types.
fn unwrap_exports<'a>(program: &mut Program<'a>, allocator: &'a Allocator) {
    let exports = |statement: &Statement<'_>| {
        matches!(statement, Statement::ExportDeclaration(_) | Statement::ExportNamedDeclaration(_))
    };
    if !program.body.iter().any(exports) {
        return;
    }
    let body = program.body.take_in(&allocator);
    let kept = body.into_iter().filter_map(|statement| match statement {
        Statement::ExportDeclaration(export) => Some(Statement::from(export.unbox().declaration)),
        Statement::ExportNamedDeclaration(_) => None,
        other => Some(other),
    });
    program.body = ArenaVec::from_iter_in(kept, &allocator);
}

/// Makes templates safe for [`Layout`]: their newlines are not layout, and no piece of code begins in their text. Finds
/// the first decorator.
struct Marking<'a> {
    allocator: &'a Allocator,
    newline: char,
    decorator: Option<u32>,
}

impl<'a> VisitMut<'a> for Marking<'a> {
    fn visit_template_element(&mut self, element: &mut TemplateElement<'a>) {
        element.span = SPAN;
        let raw = element.value.raw.as_str();
        if raw.contains('\n') {
            let marked = raw.replace('\n', self.newline.encode_utf8(&mut [0; 4]));
            element.value.raw = Str::from_str_in(&marked, &self.allocator);
        }
    }

    fn visit_decorator(&mut self, decorator: &mut Decorator<'a>) {
        self.decorator.get_or_insert(decorator.span.start);
    }
}

/// Fields that the transformer made of a constructor's parameters stand before all others. With their true positions the
/// others would be laid out behind the constructor.
struct HideMoved;

impl<'a> VisitMut<'a> for HideMoved {
    fn visit_class_body(&mut self, body: &mut ClassBody<'a>) {
        let mut next = u32::MAX;
        for element in body.body.iter_mut().rev() {
            let begin = element.span().start;
            if begin <= next {
                next = begin;
            } else if let ClassElement::PropertyDefinition(field) = element {
                field.span = SPAN;
                if let PropertyKey::StaticIdentifier(name) = &mut field.key {
                    name.span = SPAN;
                }
            }
        }
        walk_mut::walk_class_body(self, body);
    }
}

fn refuse(diagnostics: &Diagnostics, source: &str) -> Result<(), SyntaxError> {
    diagnostics.errors().next().map_or(Ok(()), |error| Err(SyntaxError::of(error, source)))
}

impl SyntaxError {
    fn of(diagnostic: &OxcDiagnostic, source: &str) -> Self {
        let mut message = diagnostic.message.to_string();
        if let Some(help) = &diagnostic.help {
            message = format!("{message} ({help})");
        }
        match diagnostic.labels.first() {
            Some(label) => Self::at(&message, source, label.offset() as usize),
            None => Self { message, place: None },
        }
    }

    fn at(message: &str, source: &str, offset: usize) -> Self {
        let before = source.get(..offset).unwrap_or(source);
        let begin = before.rfind('\n').map_or(0, |newline| newline + 1);
        let rest = source.get(begin..).unwrap_or_default();
        let text = rest.lines().next().unwrap_or_default();
        let place = Place {
            line: before.matches('\n').count() + 1,
            column: before[begin..].chars().count() + 1,
            text: (text.len() <= SHOWN_LINE_BYTES).then(|| text.to_owned()),
        };
        Self { message: message.to_owned(), place: Some(place) }
    }

    /// As a guest reports an error. `file` is how the guest would name the source.
    pub fn to_json(&self, file: &str) -> Vec<u8> {
        let mut traceback = format!("SyntaxError: {}", self.message);
        if let Some(Place { line, column, text }) = &self.place {
            traceback.push_str(&format!("\n    at {file}:{line}:{column}"));
            if let Some(text) = text {
                let mark = " ".repeat(column - 1);
                traceback.push_str(&format!("\n\n    {}\n    {mark}^", text.replace('\t', " ")));
            }
        }
        let error = serde_json::json!({
            "name": "SyntaxError",
            "message": self.message,
            "traceback": traceback,
        });
        error.to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests;
