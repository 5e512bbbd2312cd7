//! Native cells: what real interpreters do in them, what is around them, and what is left of them.

pub mod packages;
pub mod ready;
pub mod walls;

use crate::Shared;
use anchorhold_tests::{Client, Options, Server};
use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

tests!(
    python_is_the_one_that_analysts_know,
    what_ipython_adds_to_the_language_is_there,
    what_ipython_can_be_told_holds_for_plain_programs,
    a_module_is_found_as_soon_as_it_is_written,
    frames_figures_and_markup_are_results,
    errors_tell_where,
    python_reads_its_input_and_its_directory,
    node_keeps_names_and_takes_modules,
    typescript_runs_in_node,
    a_shell_keeps_its_state,
    all_languages_and_runtimes_share_the_workspace,
    programs_have_children_threads_and_shared_memory,
    an_interrupt_keeps_the_state,
    what_does_not_stop_is_ended,
    an_interpreter_that_ends_says_how,
    a_server_is_reached_in_its_session_alone,
    a_running_program_survives_the_api,
    bills_are_of_what_was_used,
    commands_wait_for_nothing,
);

/// A native session of a server that may just have begun to load what its cells are forked from.
pub fn session(client: &Client) -> Result<String> {
    let session = client.session(&json!({"runtime": "native"}))?;
    warmed(client, &session)?;
    Ok(session)
}

/// Waits until what its cells are forked from has been loaded.
pub fn warmed(client: &Client, session: &str) -> Result<()> {
    let path = format!("/v1/sessions/{session}/executions");
    for _ in 0..10 {
        let answer = client.post(&path, &json!({"command": ["true"]}))?;
        if answer.status != 503 {
            answer.expect(200);
            return Ok(());
        }
        assert_eq!(answer.problem(503), "capacity");
    }
    anyhow::bail!("it is never loaded")
}

/// Runs what must succeed.
pub fn run(client: &Client, session: &str, language: &str, code: &str) -> Result<Value> {
    let answer = client.execute(session, language, code)?;
    ensure!(answer["status"] == "succeeded", "{code}: {answer:#}");
    Ok(answer)
}

/// The value of the last expression, as a text.
fn value(answer: &Value) -> &str {
    let results = answer["results"].as_array().map_or(&[][..], Vec::as_slice);
    let main = results.iter().find(|result| result["main"] == true);
    main.and_then(|main| main["mime"]["text/plain"].as_str()).unwrap_or_default()
}

fn python_is_the_one_that_analysts_know(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    let answer = run(&client, &session, "python", "x = 41\nprint('hello')\nx + 1")?;
    assert_eq!(
        (value(&answer), &answer["stdout"], &answer["runtime"]),
        ("42", &json!("hello\n"), &json!("native"))
    );
    let answer = run(&client, &session, "python", "import sys, os\nx, sys.implementation.name, os.getcwd()")?;
    assert_eq!(value(&answer), "(41, 'cpython', '/workspace')");
    let all = "import IPython, numpy, pandas, scipy, matplotlib, seaborn, plotly, sklearn, sympy, statsmodels, PIL, \
        openpyxl, docx, pypdf, reportlab, requests, httpx, bs4, lxml, pyarrow, networkx, tabulate, pytest";
    run(&client, &session, "python", all)?;
    let answer = run(&client, &session, "python", "import asyncio\nawait asyncio.sleep(0.01, 'waited')")?;
    assert_eq!(value(&answer), "'waited'");
    let answer = run(&client, &session, "python", "!echo from a shell; exit 3\n_exit_code")?;
    assert_eq!((&answer["stdout"], value(&answer)), (&json!("from a shell\n"), "3"));
    let answer = run(&client, &session, "python", "None")?;
    assert_eq!(answer["results"], json!([]));
    // Two contexts are two interpreters.
    let other = json!({"language": "python", "context": "other", "code": "'x' in globals()"});
    assert_eq!(value(&client.execute_with(&session, &other)?), "False");
    client.close(&session)?;
    Ok(())
}

/// Commands that are Python as well, and Python that looks like a command.
fn what_ipython_adds_to_the_language_is_there(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    let python = |code: &str| run(&client, &session, "python", code);
    python("ls = 3\nw = 1")?;
    assert_eq!(value(&python("ls - w")?), "2");
    python("del ls")?;
    python("!touch seen")?;
    ensure!(python("ls -a")?["stdout"].as_str().is_some_and(|text| text.contains("seen")), "a command");
    ensure!(python("pwd")?.to_string().contains("/workspace"), "a command's value");
    assert_eq!(value(&python("In [7]: 6 * 7")?), "42", "pasted from a session");
    assert_eq!(value(&python(">>> a = 1\n>>> a + 1")?), "2", "pasted from another");
    assert_eq!(value(&python("    b = 2\n    b + 1")?), "3", "indented as a whole");
    assert_eq!(python("%%bash\necho from bash")?["stdout"], "from bash\n", "a whole cell");
    ensure!(
        python("%time sum(range(10))")?["stdout"].to_string().contains("Wall time"),
        "one that takes code"
    );
    assert_eq!(value(&python("'''\n%time\n!ls\n'''")?), r"'\n%time\n!ls\n'", "a text is a text");
    assert_eq!(python("1 + 1;")?["results"], json!([]), "a semicolon keeps a value back");
    python("7")?;
    assert_eq!(value(&python("_ + 1, __name__, len(In) > 3")?), "(8, '__main__', True)");
    let answer = client.execute(&session, "python", "\n\n1 / 0")?;
    ensure!(answer["error"]["traceback"].to_string().contains("line 3"), "{answer:#}");
    client.close(&session)?;
    Ok(())
}

fn what_ipython_can_be_told_holds_for_plain_programs(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    let python = |code: &str| run(&client, &session, "python", code);
    python("x = 6\nx * 7")?;
    assert_eq!(value(&python("In[-2], Out[1], _i, _1, _")?), r"('x = 6\nx * 7', 42, 'x = 6\nx * 7', 42, 42)");
    python("shown = get_ipython().display_formatter.formatters['text/html']")?;
    python("shown.for_type(int, lambda number: f'<b>{number}</b>')")?;
    assert_eq!(python("5")?["results"][0]["mime"], json!({"text/plain": "5", "text/html": "<b>5</b>"}));
    python("shown.pop(int); get_ipython().ast_node_interactivity = 'all'")?;
    assert_eq!(python("'a'\n'b'")?["results"].as_array().map(Vec::len), Some(2));
    let taught = "import ast\n\
        class Doubled(ast.NodeTransformer):\n\
        \x20   def visit_Constant(self, node): return ast.copy_location(ast.Constant(node.value * 2), node)\n\
        get_ipython().ast_node_interactivity = 'last_expr'\n\
        get_ipython().ast_transformers.append(Doubled())";
    python(taught)?;
    assert_eq!(value(&python("21")?), "42");
    python("get_ipython().ast_transformers.clear()")?;
    python("get_ipython().events.register('post_run_cell', lambda ran: print('ran', ran.info.raw_cell))")?;
    assert_eq!(python("y = 1")?["stdout"], "ran y = 1\n");
    assert_eq!(value(&python("import asyncio\nawait asyncio.sleep(0, 9)")?), "9");
    client.close(&session)?;
    Ok(())
}

fn a_module_is_found_as_soon_as_it_is_written(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    for number in 0..4 {
        let import = format!("import module{number}\nmodule{number}.n");
        let answer = client.execute(&session, "python", &import)?;
        assert_eq!(answer["error"]["name"], "ModuleNotFoundError");
        run(&client, &session, "bash", &format!("echo n = {number} > module{number}.py"))?;
        assert_eq!(value(&run(&client, &session, "python", &import)?), number.to_string());
    }
    client.close(&session)?;
    Ok(())
}

fn frames_figures_and_markup_are_results(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    let frame = run(
        &client,
        &session,
        "python",
        "import pandas as pd\npd.DataFrame({'a': [1, 2], 'b': ['x', 'y']})",
    )?;
    let mime = &frame["results"][0]["mime"];
    ensure!(mime["text/html"].as_str().is_some_and(|html| html.contains("<table")), "{frame:#}");
    ensure!(mime["text/plain"].as_str().is_some_and(|text| text.contains("0  1  x")), "{frame:#}");
    // A figure needs no ritual, neither `show` nor a last expression.
    for code in [
        "import matplotlib.pyplot as plt\nfig, ax = plt.subplots()\nax.plot([1, 4, 9]); ax.set_title('日本語 中文')\nNone",
        "plt.plot([1, 2]); plt.show()",
    ] {
        let answer = run(&client, &session, "python", code)?;
        let picture = answer["results"][0]["mime"]["image/png"].as_str().context("a picture")?;
        let picture = base64::engine::general_purpose::STANDARD.decode(picture.trim().replace('\n', ""))?;
        ensure!(picture.starts_with(b"\x89PNG") && picture.len() > 2000, "no PNG");
        // A glyph that no font has would be told here.
        assert_eq!(answer["stderr"], "", "{answer:#}");
    }
    let code = "from IPython.display import HTML, JSON, display\ndisplay(HTML('<b>x</b>'), JSON({'a': 1}))";
    let answer = run(&client, &session, "python", code)?;
    assert_eq!(answer["results"][0]["mime"]["text/html"], "<b>x</b>");
    assert_eq!(answer["results"][1]["mime"]["application/json"], json!({"a": 1}));
    let code = "import plotly.express as px\npx.line(x=[1, 2], y=[3, 4])";
    let answer = run(&client, &session, "python", code)?;
    let figure = answer["results"].as_array().context("results")?.iter();
    let figure = figure.filter_map(|result| result["mime"].get("application/vnd.plotly.v1+json")).next();
    ensure!(figure.is_some_and(|figure| figure["data"].is_array()), "{answer:#}");
    // One that is too large for an answer says so, and what is around it arrives.
    let answer = run(&client, &session, "python", "display(HTML('y' * 3_000_000)); print('after'); 7")?;
    ensure!(answer["results"][0].to_string().contains("too many"), "{:.300}", answer.to_string());
    assert_eq!((value(&answer), &answer["stdout"]), ("7", &json!("after\n")));
    client.close(&session)?;
    Ok(())
}

fn errors_tell_where(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    let answer = client.execute(&session, "python", "def f():\n    return 1 / 0\n\nf()")?;
    assert_eq!(
        (&answer["status"], &answer["error"]["name"]),
        (&json!("failed"), &json!("ZeroDivisionError"))
    );
    let trace = answer["error"]["traceback"].as_str().context("a traceback")?;
    ensure!(trace.contains("<execution 1>\", line 4") && trace.contains("line 2, in f"), "{trace}");
    ensure!(!trace.contains("IPython") && !trace.contains("anchorhold"), "{trace}");
    let answer = client.execute(&session, "python", "a = (1,\nb = 2")?;
    assert_eq!(answer["error"]["name"], "SyntaxError", "{answer:#}");
    let answer = client.execute(&session, "python", "import sys\nsys.exit(3)")?;
    assert_eq!(
        (&answer["status"], &answer["exit_code"], &answer["state_lost"]),
        (&json!("failed"), &json!(3), &json!(false))
    );
    let answer = client.execute(&session, "javascript", "const a = 1;\nnull.x")?;
    assert_eq!(answer["error"]["name"], "TypeError", "{answer:#}");
    let trace = answer["error"]["traceback"].as_str().context("a traceback")?;
    ensure!(trace.contains("<execution-1>:2"), "{trace}");
    let answer = client.execute(&session, "javascript", "throw 'a text'")?;
    assert_eq!(answer["error"]["message"], "'a text'", "{answer:#}");
    let answer = client.execute(&session, "javascript", "let = ;")?;
    assert_eq!(answer["error"]["name"], "SyntaxError", "{answer:#}");
    let answer = client.execute(&session, "bash", "echo out; no-such-program; echo after; false")?;
    assert_eq!(
        (&answer["status"], &answer["exit_code"], &answer["stdout"]),
        (&json!("failed"), &json!(1), &json!("out\nafter\n"))
    );
    ensure!(answer["stderr"].as_str().is_some_and(|text| text.contains("command not found")), "{answer:#}");
    client.close(&session)?;
    Ok(())
}

fn python_reads_its_input_and_its_directory(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    let request = json!({"language": "python", "stdin": "Ada\nLovelace\n", "code": "name = input('? ')\nname, input()"});
    let answer = client.execute_with(&session, &request)?;
    assert_eq!((value(&answer), &answer["stdout"]), ("('Ada', 'Lovelace')", &json!("? ")), "{answer:#}");
    let answer = client.execute(&session, "python", "input()")?;
    assert_eq!(answer["error"]["name"], "EOFError");
    run(&client, &session, "bash", "mkdir -p sub; ls -a /tmp | grep -c stdin || true")?;
    let request = json!({"language": "python", "cwd": "sub", "env": {"A": "b"}, "code": "import os\nos.getcwd(), os.environ['A']"});
    assert_eq!(value(&client.execute_with(&session, &request)?), "('/workspace/sub', 'b')");
    assert_eq!(
        value(&run(&client, &session, "python", "os.getcwd(), 'A' in os.environ")?),
        "('/workspace', False)"
    );
    for (language, code) in [
        ("bash", "read a; read b; echo $b $a"),
        (
            "javascript",
            "let text = ''; for await (const part of process.stdin) text += part; const [a, b] = text.split('\\n'); console.log(b, a)",
        ),
    ] {
        let request = json!({"language": language, "stdin": "1\n2\n", "code": code});
        let answer = client.execute_with(&session, &request)?;
        assert_eq!(answer["stdout"], "2 1\n", "{answer:#}");
    }
    // One that follows while it runs.
    let request =
        json!({"language": "python", "stdin": null, "background": true, "code": "print(input()[::-1])"});
    let begun = client.post(&format!("/v1/sessions/{session}/executions"), &request)?.expect(202);
    let path = format!("/v1/sessions/{session}/executions/{}", begun["id"].as_str().context("id")?);
    let end = Instant::now() + Duration::from_secs(20);
    while client.post(&format!("{path}/stdin"), &json!({"text": "olleh\n", "eof": true}))?.status != 200 {
        ensure!(Instant::now() < end, "it takes no input");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(ended(&client, &path)?["stdout"], "hello\n");
    client.close(&session)?;
    Ok(())
}

/// What became of an execution in the background.
fn ended(client: &Client, path: &str) -> Result<Value> {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let now = client.get(path)?.expect(200);
        if now["status"] != "running" {
            return Ok(now);
        }
        ensure!(Instant::now() < end, "it runs on: {now}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn node_keeps_names_and_takes_modules(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    let js = |code: &str| run(&client, &session, "javascript", code);
    assert_eq!(value(&js("const a = 41; let f = (x) => x + 1; f(a)")?), "42");
    // Names are declared anew, as in a notebook.
    assert_eq!(value(&js("const a = 1; f(a)")?), "2");
    assert_eq!(value(&js("await new Promise((done) => setTimeout(done, 5, 'waited'))")?), "'waited'");
    let answer = js("({a: [1, 2]})")?;
    assert_eq!(answer["results"][0]["mime"]["application/json"], json!({"a": [1, 2]}));
    assert_eq!(js("console.log('x', {y: 1}); console.error('e')")?["stdout"], "x { y: 1 }\n");
    assert_eq!(value(&js("require('node:path').basename('/a/b')")?), "'b'");
    let modules = "import fs, { readFileSync as read } from 'node:fs';\nimport * as path from 'path';\n\
        fs.writeFileSync('m.mjs', 'export const answer = 42; export default 7'); path.extname('m.mjs') + read('m.mjs').length";
    assert_eq!(value(&js(modules)?), "'.mjs42'");
    assert_eq!(value(&js("import seven, { answer } from './m.mjs'; [seven, answer]")?), "[ 7, 42 ]");
    ensure!(value(&js("process.version")?).starts_with("'v24."));
    client.close(&session)?;
    Ok(())
}

fn typescript_runs_in_node(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    let code = "enum Color { Red, Green }\ninterface P { x: number }\nconst p: P = { x: 5 };\n[p.x, Color.Green] as number[]";
    let answer = run(&client, &session, "typescript", code)?;
    assert_eq!((value(&answer), &answer["stderr"]), ("[ 5, 1 ]", &json!("")));
    assert_eq!(value(&run(&client, &session, "typescript", "p.x satisfies number")?), "5");
    client.close(&session)?;
    Ok(())
}

fn a_shell_keeps_its_state(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    run(&client, &session, "bash", "declare -A map=([k]=v); f() { echo \"f:$1\"; }; cd /tmp; x=5")?;
    let answer =
        run(&client, &session, "bash", "echo ${map[k]} $x; f 1; pwd; seq 3 | paste -sd+ | sed 's/$/=6/'")?;
    assert_eq!(answer["stdout"], "v 5\nf:1\n/tmp\n1+2+3=6\n");
    let request = json!({"language": "bash", "env": {"Q": "it's"}, "cwd": "", "code": "echo $Q $PWD"});
    assert_eq!(client.execute_with(&session, &request)?["stdout"], "it's /workspace\n");
    assert_eq!(
        run(
            &client,
            &session,
            "bash",
            "echo [$Q] $PWD; cat <<< text; git --version | cut -c-3; jq -n 1+1; sqlite3 :memory: 'select 3'"
        )?["stdout"],
        "[] /tmp\ntext\ngit\n2\n3\n"
    );
    let answer = client.execute(&session, "bash", "exit 4")?;
    assert_eq!((&answer["exit_code"], &answer["state_lost"]), (&json!(4), &json!(true)), "{answer:#}");
    assert_eq!(run(&client, &session, "bash", "echo [$x]")?["stdout"], "[]\n");
    client.close(&session)?;
    Ok(())
}

fn all_languages_and_runtimes_share_the_workspace(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    client.put(&format!("/v1/sessions/{session}/files/in.csv"), "a,b\n1,2\n3,4\n")?.expect(201);
    run(&client, &session, "python", "import pandas as pd\npd.read_csv('in.csv').sum().to_json('sum.json')")?;
    assert_eq!(
        value(&run(&client, &session, "javascript", "JSON.parse(require('fs').readFileSync('sum.json')).b")?),
        "6"
    );
    let wasm = json!({"language": "python", "runtime": "wasm", "code": "open('/workspace/sum.json').read()"});
    assert_eq!(value(&client.execute_with(&session, &wasm)?), "'{\"a\":4,\"b\":6}'");
    run(
        &client,
        &session,
        "bash",
        "cp sum.json /tmp/copy; printf '#!/bin/sh\\necho ran\\n' > own; chmod +x own; ./own",
    )?;
    assert_eq!(value(&run(&client, &session, "python", "open('/tmp/copy').read()")?), "'{\"a\":4,\"b\":6}'");
    let file = client.get(&format!("/v1/sessions/{session}/files/sum.json"))?;
    assert_eq!(file.text(), "{\"a\":4,\"b\":6}");
    client.close(&session)?;
    Ok(())
}

fn programs_have_children_threads_and_shared_memory(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    let code = "import subprocess, threading, multiprocessing, sqlite3, tempfile\n\
        out = subprocess.run(['sh', '-c', 'echo child'], capture_output=True, text=True).stdout\n\
        seen = []\nthread = threading.Thread(target=lambda: seen.append(1)); thread.start(); thread.join()\n\
        with multiprocessing.get_context('fork').Pool(2) as pool:\n    squares = pool.map(abs, [-1, -2])\n\
        from multiprocessing import shared_memory\nmemory = shared_memory.SharedMemory(create=True, size=100); memory.buf[0] = 7\n\
        held = memory.buf[0]; memory.close(); memory.unlink()\n\
        base = sqlite3.connect('base.db'); base.execute('create table t (x)'); base.commit()\n\
        (out, seen, squares, held)";
    assert_eq!(value(&run(&client, &session, "python", code)?), "('child\\n', [1], [1, 2], 7)");
    let code = "import numpy as np\nfrom sklearn.linear_model import LinearRegression\n\
        model = LinearRegression().fit(np.arange(10).reshape(-1, 1), np.arange(10) * 2)\nround(float(model.coef_[0]), 6)";
    assert_eq!(value(&run(&client, &session, "python", code)?), "2.0");
    client.close(&session)?;
    Ok(())
}

fn an_interrupt_keeps_the_state(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    for (language, set, code, get, kept) in [
        ("python", "x = 'kept'", "while True: pass", "print(x)", "kept\n"),
        ("python", "1", "import time\ntime.sleep(60)", "print(x)", "kept\n"),
        ("python", "1", "import subprocess\nsubprocess.run(['sleep', '60'])", "print(x)", "kept\n"),
        ("javascript", "let x = 'kept'", "for (;;);", "console.log(x)", "kept\n"),
        (
            "javascript",
            "1",
            "await new Promise(() => setTimeout(() => {}, 60000))",
            "console.log(x)",
            "kept\n",
        ),
        ("bash", "x=kept", "sleep 60; echo not", "echo $x", "kept\n"),
    ] {
        run(&client, &session, language, set)?;
        let request = json!({"language": language, "code": code, "timeout_seconds": 0.3});
        let answer = client.execute_with(&session, &request)?;
        assert_eq!(
            (&answer["status"], &answer["state_lost"], &answer["stdout"]),
            (&json!("timed_out"), &json!(false), &json!("")),
            "{code}: {answer:#}"
        );
        assert_eq!(run(&client, &session, language, get)?["stdout"], kept, "{code}");
    }
    let request = json!({"language": "python", "background": true, "code": "print('on', flush=True)\nwhile True: pass"});
    let begun = client.post(&format!("/v1/sessions/{session}/executions"), &request)?.expect(202);
    let path = format!("/v1/sessions/{session}/executions/{}", begun["id"].as_str().context("id")?);
    let answer = client.post(&format!("{path}/cancel"), &json!({}))?.expect(200);
    assert_eq!(
        (&answer["status"], &answer["state_lost"]),
        (&json!("cancelled"), &json!(false)),
        "{answer:#}"
    );
    client.close(&session)?;
    Ok(())
}

fn what_does_not_stop_is_ended(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    for (language, code) in [
        ("python", "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"),
        ("bash", "trap '' INT; while :; do :; done"),
        (
            "javascript",
            "process.removeAllListeners('SIGINT'); process.on('SIGINT', () => {}); await new Promise(() => setTimeout(() => {}, 60000))",
        ),
    ] {
        let request = json!({"language": language, "code": code, "timeout_seconds": 0.3});
        let answer = client.execute_with(&session, &request)?;
        assert_eq!(
            (&answer["status"], &answer["state_lost"]),
            (&json!("timed_out"), &json!(true)),
            "{code}: {answer:#}"
        );
    }
    run(&client, &session, "python", "1")?;
    client.close(&session)?;
    Ok(())
}

fn an_interpreter_that_ends_says_how(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    run(&client, &session, "python", "x = 1")?;
    let answer = client.execute(&session, "python", "import os\nprint('last')\nos._exit(5)")?;
    assert_eq!(
        (&answer["status"], &answer["exit_code"], &answer["state_lost"], &answer["stdout"]),
        (&json!("failed"), &json!(5), &json!(true), &json!("last\n")),
        "{answer:#}"
    );
    let answer = client.execute(&session, "python", "x")?;
    assert_eq!(answer["error"]["name"], "NameError");
    let answer =
        client.execute(&session, "python", "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")?;
    assert_eq!(
        (&answer["error"]["name"], &answer["state_lost"]),
        (&json!("INTERPRETER_DIED"), &json!(true)),
        "{answer:#}"
    );
    // What it says to pid 1 is checked there.
    for said in ["b'V 99999999999\\n'", "b'nonsense' * 10", "b'D 1\\n{'"] {
        let answer = client.execute(
            &session,
            "python",
            &format!("import os, time\nos.write(4, {said})\ntime.sleep(5)"),
        )?;
        ensure!(answer["state_lost"] == true && answer["status"] == "failed", "{said}: {answer:#}");
    }
    run(&client, &session, "python", "1")?;
    client.close(&session)?;
    Ok(())
}

fn a_server_is_reached_in_its_session_alone(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    run(&client, &session, "bash", "echo served > page")?;
    // One that runs in a cell of its own, as a command in the background.
    let path = format!("/v1/sessions/{session}/executions");
    let server = json!({"command": ["python3", "-m", "http.server", "8123"], "background": true});
    client.post(&path, &server)?.expect(202);
    let patient = "for i in $(seq 100); do curl -s localhost:8123/page && break; sleep 0.1; done";
    assert_eq!(run(&client, &session, "bash", patient)?["stdout"], "served\n");
    let code =
        "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:8123/page', timeout=3).read()";
    assert_eq!(value(&run(&client, &session, "python", code)?), "b'served\\n'");
    let fetched =
        run(&client, &session, "javascript", "await (await fetch('http://localhost:8123/page')).text()")?;
    assert_eq!(value(&fetched), "'served\\n'");
    let other = self::session(&client)?;
    assert_eq!(client.execute(&other, "python", code)?["status"], "failed");
    ensure!(std::net::TcpStream::connect("127.0.0.1:8123").is_err(), "the host reaches it");
    // It outlives the cell that the session's network was made with.
    let answer = client.execute(&session, "bash", "exit 1")?;
    assert_eq!(answer["state_lost"], true);
    assert_eq!(run(&client, &session, "bash", patient)?["stdout"], "served\n");
    // What shares the network sees no processes of each other.
    let seen =
        run(&client, &session, "python", "import os\nlen([n for n in os.listdir('/proc') if n.isdigit()])")?;
    ensure!(value(&seen).parse::<u32>()? <= 3, "{seen:#}");
    client.close(&session)?;
    client.close(&other)?;
    Ok(())
}

/// kill −9 of the API in the middle: the next one gets everything.
fn a_running_program_survives_the_api(_: &Shared) -> Result<()> {
    let mut server = Server::start(Options::default())?;
    let client = server.client()?;
    let session = session(&client)?;
    run(&client, &session, "python", "x = 'kept'")?;
    let request = json!({"language": "python", "background": true, "code":
        "import time\nprint('before', flush=True)\ntime.sleep(3)\nprint('after')\nx"});
    let begun = client.post(&format!("/v1/sessions/{session}/executions"), &request)?.expect(202);
    std::thread::sleep(Duration::from_millis(800));
    server.kill()?;
    server.launch()?;
    let client = server.client()?;
    let path = format!("/v1/sessions/{session}/executions/{}", begun["id"].as_str().context("id")?);
    let answer = ended(&client, &path)?;
    assert_eq!(
        (&answer["status"], &answer["stdout"], value(&answer)),
        (&json!("succeeded"), &json!("before\nafter\n"), "'kept'"),
        "{answer:#}"
    );
    assert_eq!(value(&run(&client, &session, "python", "x")?), "'kept'");
    client.close(&session)?;
    server.stop()?;
    Ok(())
}

fn bills_are_of_what_was_used(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    run(&client, &session, "python", "1")?;
    let code =
        "import time, resource\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass";
    let answer = run(&client, &session, "python", code)?;
    let cpu_us = answer["usage"]["cpu_us"].as_u64().context("cpu")?;
    ensure!((490_000..600_000).contains(&cpu_us), "{cpu_us} µs of 500,000");
    // A daemon's time is the session's standing use.
    run(&client, &session, "bash", "timeout 1 sh -c 'while :; do :; done' >/dev/null 2>&1 &")?;
    std::thread::sleep(Duration::from_millis(1300));
    client.close(&session)?;
    let usage = client.get(&format!("/v1/sessions/{session}/usage"))?.expect(200);
    let standing =
        usage["items"].as_array().context("items")?.iter().filter(|record| record["kind"] == "standing");
    let standing: u64 = standing.filter_map(|record| record["cpu_us"].as_u64()).sum();
    ensure!(standing > 200_000, "{standing} µs: {usage:#}");
    Ok(())
}

fn commands_wait_for_nothing(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    let path = format!("/v1/sessions/{session}/executions");
    let long = json!({"language": "bash", "code": "sleep 20", "background": true});
    client.post(&path, &long)?.expect(202);
    let request = json!({"command": ["sh", "-c", "cat; echo $1 $A; pwd; exit 3", "sh", "it's"], "stdin": "in\n", "env": {"A": "b"}, "cwd": "d"});
    client.execute_with(&session, &json!({"command": ["mkdir", "d"]}))?;
    let answer = client.execute_with(&session, &request)?;
    assert_eq!(
        (
            &answer["language"],
            &answer["status"],
            &answer["exit_code"],
            &answer["state_lost"],
            &answer["stdout"]
        ),
        (&json!("command"), &json!("failed"), &json!(3), &json!(false), &json!("in\nit's b\n/workspace/d\n")),
        "{answer:#}"
    );
    let answer = client.execute_with(&session, &json!({"command": ["no-such-program"]}))?;
    assert_eq!((&answer["status"], &answer["exit_code"]), (&json!("failed"), &json!(127)), "{answer:#}");
    let answer =
        client.execute_with(&session, &json!({"command": ["sleep", "60"], "timeout_seconds": 0.3}))?;
    assert_eq!(answer["status"], "timed_out", "{answer:#}");
    // What a program leaves behind holds its output open, and nobody waits for it.
    for left in [
        json!({"command": ["bash", "-c", "sleep 30 & echo gone"]}),
        json!({"language": "python", "code": "import os, subprocess\nsubprocess.Popen(['sleep', '30'])\nprint('gone', flush=True)\nos._exit(0)"}),
    ] {
        let began = Instant::now();
        let answer = client.execute_with(&session, &left)?;
        assert_eq!((&answer["stdout"], &answer["exit_code"]), (&json!("gone\n"), &json!(0)), "{answer:#}");
        ensure!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    }
    // They leave no context.
    let contexts = client.get(&format!("/v1/sessions/{session}/contexts"))?.expect(200);
    ensure!(!contexts.to_string().contains("\"command\""), "{contexts:#}");
    for (wrong, field) in [
        (json!({"command": []}), "command"),
        (json!({"command": "ls"}), "command"),
        (json!({"command": ["ls"], "language": "bash"}), "language"),
        (json!({"command": ["ls"], "code": "x"}), "code"),
        (json!({"language": "command", "code": "x"}), "language"),
        (json!({"language": "bash", "engine": "boa", "code": "x"}), "engine"),
    ] {
        let answer = client.post(&path, &wrong)?.expect(422);
        assert_eq!(answer["errors"][0]["field"], field, "{wrong}: {answer:#}");
    }
    client.close(&session)?;
    Ok(())
}
