// The official TypeScript client lists and calls every tool: both revisions, over HTTP and over standard input and output.
//
//     node clients.mjs URL KEY PROGRAM DATA_DIR        clients.py starts the server, and calls this

import assert from 'node:assert/strict';
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';

const [base, key, program, dataDir] = process.argv.slice(2);
const PNG = 'iVBORw0KGgo=';

const doors = {
    http: () =>
        new StreamableHTTPClientTransport(new URL(`${base}/mcp`), {
            requestInit: { headers: { Authorization: `Bearer ${key}` } },
        }),
    stdio: () => new StdioClientTransport({ command: program, args: ['mcp', '--url', base, '--data-dir', dataDir] }),
};

/** Calls tools, and keeps account of which. The client checks each answer against the tool's output schema. */
function caller(client) {
    const called = new Set();
    const call = async (name, args, options) => {
        called.add(name);
        return client.callTool({ name, arguments: args }, options);
    };
    const data = async (name, args, options) => {
        const result = await call(name, args, options);
        assert.ok(!result.isError, JSON.stringify(result));
        return result.structuredContent;
    };
    return { call, data, called };
}

const PAGE =
    'data:text/html,<title>Order</title><label>Name <input id=who></label>' +
    '<label>List <input type=file id=list></label>' +
    '<label>Size <select id=size><option>small<option>large</select></label>' +
    `<button onclick="out.textContent=prompt('sure?')+who.value+size.value">Order</button><output id=out></output>`;

/** Every one of a browser, on a page that needs no network. */
async function browserTools({ call, data }, session_id) {
    assert.equal((await data('browser_navigate', { url: PAGE, session_id })).title, 'Order');
    const target = { label: 'Name' };
    await data('browser_type', { target, text: 'A', session_id });
    await data('browser_fill_form', { fields: [{ target, value: 'Ada' }], session_id });
    await data('browser_select_option', { target: { label: 'Size' }, values: ['large'], session_id });
    await data('browser_press_key', { key: 'Tab', session_id });
    // The page cannot be read before its dialog is answered, and that is said.
    const asked = await call('browser_click', { target: { text: 'Order' }, session_id });
    assert.ok(!asked.isError && asked.structuredContent.dialog.includes('sure?'), JSON.stringify(asked));
    await data('browser_handle_dialog', { accept: true, text: 'yes', session_id });
    const seen = await data('browser_wait_for', { text: 'yesAdalarge', session_id });
    assert.ok(seen.snapshot.includes('yesAdalarge'), JSON.stringify(seen));
    assert.equal((await data('browser_evaluate', { expression: '6 * 7', session_id })).value, '42');
    await data('write_files', { files: [{ path: 'given.txt', content: 'given' }], session_id });
    await data('browser_file_upload', { target: { label: 'List' }, paths: ['given.txt'], session_id });
    assert.equal((await data('browser_evaluate', { expression: 'list.files[0].text()', session_id })).value, '"given"');
    assert.equal((await call('browser_take_screenshot', { session_id })).content[1].type, 'image');
    assert.equal((await data('browser_tabs', { action: 'list', session_id })).tabs.length, 1);
    assert.equal((await data('browser_navigate_back', { session_id })).url, 'about:blank');
    assert.equal((await data('browser_snapshot', { session_id })).status, 'succeeded');
    assert.ok((await data('browser_close', { session_id })).closed);
}

async function everyTool(client) {
    const { tools } = await client.listTools();
    const { call, data, called } = caller(client);
    const { session_id } = await data('session_create', { ttl_seconds: 120 });

    const ran = await data('execute_code', { language: 'javascript', code: "console.log('hello'); 6 * 7", session_id });
    assert.deepEqual([ran.stdout, ran.value], ['hello\n', '42']);
    const failed = await call('execute_code', { language: 'python', code: '1/0', session_id });
    assert.ok(failed.isError);
    assert.equal(failed.structuredContent.error.name, 'ZeroDivisionError');
    const loop = { language: 'python', code: 'while True: pass', background: true, session_id };
    const { task_id } = await data('execute_code', loop);
    assert.equal((await data('get_task', { task_id, session_id })).status, 'running');
    assert.equal((await data('stop_task', { task_id, session_id })).status, 'cancelled');

    const command = await data('run_command', { command: 'node -p 6*7', session_id });
    assert.equal(command.stdout, '42\n');
    const started = await data('start_command', { command: 'sleep 60', session_id });
    assert.equal((await data('stop_task', { task_id: started.task_id, session_id })).status, 'cancelled');

    const files = [{ path: 'a.txt', content: 'text' }, { path: 'p.png', content_base64: PNG }];
    await data('write_files', { files, session_id });
    const read = await call('read_files', { paths: ['a.txt', 'p.png'], session_id });
    assert.equal(read.structuredContent.files[0].text, 'text');
    assert.deepEqual([read.content[1].type, read.content[1].data], ['image', PNG]);
    const resource = await client.readResource({ uri: `anchorhold://${session_id}/a.txt` });
    assert.equal(resource.contents[0].text, 'text');
    assert.equal((await data('list_files', { session_id })).files.length, 2);
    assert.deepEqual((await data('remove_files', { paths: ['a.txt'], session_id })).removed, ['a.txt']);

    await browserTools({ call, data }, session_id);
    assert.ok((await data('session_get', { session_id })).usage.records >= 3);
    assert.ok((await data('usage_get', { group_by: 'session' })).lines.length > 0);
    assert.equal((await data('session_close', { session_id })).status, 'closed');
    await assert.rejects(client.callTool({ name: 'no_such_tool', arguments: {} }));
    assert.deepEqual([...called].sort(), tools.map(tool => tool.name).sort());
}

async function progressAndCancellation(client) {
    const { data } = caller(client);
    const { session_id } = await data('session_create', { ttl_seconds: 120 });
    const heard = [];
    const steps = "import time\nfor n in range(3):\n    print('step', n, flush=True)\n    time.sleep(0.2)";
    const onprogress = ({ message }) => heard.push(message);
    await data('execute_code', { language: 'python', code: steps, session_id }, { onprogress });
    assert.ok(heard.includes('step 2'), heard.join());

    const abort = new AbortController();
    const loop = { language: 'python', code: 'while True: pass', session_id };
    setTimeout(() => abort.abort('enough'), 300);
    await assert.rejects(client.callTool({ name: 'execute_code', arguments: loop }, { signal: abort.signal }));
    // In the same context: it waits for the end of what was cancelled.
    const next = await data('execute_code', { language: 'python', code: '1 + 1', session_id });
    assert.equal(next.value, '2');
    await data('session_close', { session_id });
}

for (const mode of ['legacy', { pin: '2026-07-28' }, 'auto']) {
    for (const [door, transport] of Object.entries(doors)) {
        const client = new Client({ name: 'clients.mjs', version: '1' }, { versionNegotiation: { mode } });
        await client.connect(transport());
        await everyTool(client);
        await progressAndCancellation(client);
        const version = client.getNegotiatedProtocolVersion();
        console.log(`ok: every tool, TypeScript, ${door}, ${mode.pin ?? mode}: ${version}`);
        await client.close();
    }
}
