//! TypeScript: types go, the rest runs as JavaScript, positions stay.

use crate::Shared;
use anyhow::Result;
use serde_json::{Value, json};

tests!(
    types_are_removed,
    what_typescript_adds_runs,
    state_stays_and_languages_are_apart,
    errors_have_the_lines_of_the_source,
    a_source_that_is_nested_deeply_hurts_nobody,
);

fn text(answer: &Value) -> &str {
    answer["results"][0]["mime"]["text/plain"].as_str().unwrap_or_default()
}

fn types_are_removed(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let code = "interface P { x: number; y?: string }\nfunction f<T extends P>(p: T): number { return p.x as number }\nconst r: number = await Promise.resolve(f({ x: 41 }));\nr + 1";
    let answer = client.post("/v1/run", &json!({"language": "typescript", "code": code}))?.expect(200);
    assert_eq!((&answer["status"], text(&answer)), (&json!("succeeded"), "42"), "{answer}");
    assert_eq!(answer["language"], "typescript");
    Ok(())
}

fn what_typescript_adds_runs(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let code = "enum Color { Red, Green = 5, Blue }\nnamespace N { export const two = 2 }\nclass P { constructor(public readonly x: number, private y = 3) {} sum() { return this.x + this.y } }\n[Color.Blue, Color[5], N.two, new P(1).sum()].join()";
    let answer = client.post("/v1/run", &json!({"language": "typescript", "code": code}))?.expect(200);
    assert!(text(&answer).contains("6,Green,2,4"), "{answer}");
    let decorated = json!({"language": "typescript", "code": "class A { @d m() {} }"});
    let answer = client.post("/v1/run", &decorated)?.expect(200);
    assert_eq!((&answer["status"], &answer["error"]["name"]), (&json!("failed"), &json!("SyntaxError")));
    Ok(())
}

fn state_stays_and_languages_are_apart(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    client.execute(
        &session,
        "typescript",
        "let x: number = 41; function inc(n: number): number { return n + 1 }",
    )?;
    assert_eq!(text(&client.execute(&session, "typescript", "inc(x)")?), "42");
    let answer = client.execute(&session, "javascript", "typeof x")?;
    assert!(text(&answer).contains("undefined"), "{answer}");
    client.close(&session)?;
    Ok(())
}

fn errors_have_the_lines_of_the_source(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let syntax = client.execute(&session, "typescript", "let a = 1;\nlet b: = 2;")?;
    assert_eq!((&syntax["status"], &syntax["error"]["name"]), (&json!("failed"), &json!("SyntaxError")));
    assert!(syntax["error"]["traceback"].as_str().is_some_and(|t| t.contains(":2:")), "{syntax}");
    assert_eq!(syntax["state_lost"], false);
    let code = "enum E {\n  A,\n  B,\n}\ninterface I {\n  x: number\n}\nfunction fail(i: I): never {\n  throw new TypeError('line nine');\n}\nfail({ x: E.A });";
    let thrown = client.execute(&session, "typescript", code)?;
    let traceback = thrown["error"]["traceback"].as_str().unwrap_or_default();
    assert!(traceback.contains(":9:") && traceback.contains(":11:"), "{thrown}");
    client.close(&session)?;
    Ok(())
}

fn a_source_that_is_nested_deeply_hurts_nobody(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    client.execute_with(
        &session,
        &json!({"language": "typescript", "code": "let kept: number = 1", "context": "other"}),
    )?;
    // The last is written so that it is not seen to be deep: what looks like a regular expression hides it.
    let hidden = format!("x = a\n++/{}/1", "(".repeat(200_000));
    for code in
        ["(".repeat(200_000), "[".repeat(400_000), "let x: ".to_owned() + &"A<".repeat(200_000), hidden]
    {
        let answer = client.execute(&session, "typescript", &code)?;
        assert_eq!(
            answer["status"],
            "failed",
            "{}",
            &answer.to_string()[..300.min(answer.to_string().len())]
        );
        let other = json!({"language": "typescript", "code": "kept", "context": "other"});
        assert_eq!(text(&client.execute_with(&session, &other)?), "1");
    }
    client.close(&session)?;
    Ok(())
}
