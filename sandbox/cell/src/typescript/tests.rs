use super::*;

fn javascript(source: &str) -> String {
    to_javascript(source).unwrap_or_else(|error| panic!("{error:?}"))
}

#[test]
fn probe() {
    for source in [
        "let x: number = 1;\nfunction f<T>(a: T, b?: string): T {\n  return a as T;\n}\nf<number>(x)!",
        "enum Color { Red, Green = 'g', Blue = 5, Next }\nconsole.log(\n  Color.Red,\n  Color[5],\n)",
        "namespace A {\n  export const x = 1;\n  export namespace B {\n    export function f() { return x }\n  }\n}\nA.B.f()",
        "class P {\n  private z = 1;\n  constructor(public x: number, readonly y = 2) {\n    console.log(this.x)\n  }\n}\nnew P(1)",
        "function log(t: any, k: string, d: any) {}\n@sealed\nclass C {\n  @log\n  m(@inject a: string) {}\n  @prop p = 1\n}",
        "import fs, { type Stats, readFileSync } from 'fs'\nimport type { X } from './x'\nexport interface Y { a: string }\nexport const q = readFileSync",
        "const t = `a\n  ${1 +\n 2}b\n`;\nthrow new Error(\n  t\n)",
        "interface A { x: number }\ntype B = A | undefined\n",
        "const f = async (\n  a: number,\n) => {\n  return (\n    a + 1\n  );\n};\nawait f(1)",
        "import fs = require('fs')",
        "using x = y()",
    ] {
        eprintln!("---- {source}\n====\n{}", to_javascript(source).unwrap_or_else(|e| format!("{e:?}")));
    }
}
