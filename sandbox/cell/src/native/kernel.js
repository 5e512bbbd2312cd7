// Runs JavaScript and TypeScript in one Node that keeps its state, as a console does: names may be declared anew, and
// `await` stands at the top.
//
// Descriptor 3: for each execution a line with a length, and JSON of that length. Descriptor 4: `B 0` when the input is
// open, `V <length>` and a rich value, `D <length>` and how it ended.
//
// With the argument `ahead` it is there before its session: it says `R 0` when it is, and is told its environment first.
(() => {
  'use strict';
  const fs = require('node:fs');
  const vm = require('node:vm');
  const util = require('node:util');
  const inspector = require('node:inspector');
  const { createRequire, stripTypeScriptTypes } = require('node:module');
  const { PassThrough } = require('node:stream');

  const VALUE_BYTES_MAX = 2 * 1024 * 1024;
  const session = new inspector.Session();
  session.connect();
  let executions = 0;
  let interrupt = null;

  const require_ = createRequire('/workspace/');
  Object.assign(globalThis, { require: require_, module: { exports: {} } });
  globalThis.exports = globalThis.module.exports;
  Object.defineProperty(globalThis, '__import', { value: (name) => import(name.startsWith('.') || name.startsWith('/') ? require('node:url').pathToFileURL(require('node:path').resolve(name)).href : resolve(name)) });

  function resolve(name) {
    if (name.includes(':') || require('node:module').isBuiltin(name)) return name;
    return require('node:url').pathToFileURL(require_.resolve(name)).href;
  }

  function send(kind, payload = '') {
    const bytes = Buffer.from(payload);
    const all = Buffer.concat([Buffer.from(`${kind} ${bytes.length}\n`), bytes]);
    for (let at = 0; at < all.length; ) at += fs.writeSync(4, all, at);
  }

  // What was read and belongs to the next message.
  let unread = Buffer.alloc(0);

  function receive() {
    return new Promise((done) => {
      const parts = [unread];
      let wanted = null;
      const take = () => {
        let all = Buffer.concat(parts);
        if (wanted === null) {
          const end = all.indexOf(10);
          if (end < 0) return false;
          wanted = Number(all.subarray(0, end));
          all = all.subarray(end + 1);
          parts.splice(0, parts.length, all);
        }
        if (all.length < wanted) return false;
        unread = all.subarray(wanted);
        done(JSON.parse(all.subarray(0, wanted)));
        return true;
      };
      const read = () => {
        const buffer = Buffer.alloc(65536);
        fs.read(3, buffer, 0, buffer.length, null, (error, count) => {
          if (error || count === 0) process.exit(0);
          parts.push(buffer.subarray(0, count));
          if (!take()) read();
        });
      };
      if (!take()) read();
    });
  }

  // What begins with one of these is a string or a comment, and ends with the next of the other.
  const QUOTED = /(["'`])(?:\\[\s\S]|(?!\1)[^\\])*\1|\/\/[^\n]*|\/\*[\s\S]*?\*\//g;
  const STATIC =
    /^([ \t]*)import\s+(?:([\w$*{}\s,]+?)\s+from\s+)?(['"])([^'"\n]+)\3[ \t]*(?:with\s*\{[^}]*\})?[ \t]*;?/gm;

  // A console knows no modules: what they import is called for here.
  function imports(code) {
    return outsideStrings(code.replace(STATIC, called), (part) => part.replace(/(?<![.\w$])import(?=\s*\()/g, '__import'));
  }

  function outsideStrings(code, change) {
    let [all, at] = ['', 0];
    for (const quoted of code.matchAll(QUOTED)) {
      all += change(code.slice(at, quoted.index)) + quoted[0];
      at = quoted.index + quoted[0].length;
    }
    return all + change(code.slice(at));
  }

  function called(all, space, names, quote, from) {
    const call = `await __import(${JSON.stringify(from)})`;
    if (!names) return `${space}${call};`;
    const parts = [];
    const plain = names.replace(/\{[\s\S]*\}/, '').split(',').map((name) => name.trim()).filter(Boolean);
    for (const name of plain) {
      const whole = name.match(/^\*\s+as\s+([\w$]+)$/);
      parts.push(whole ? `const ${whole[1]} = ${call};` : `const ${name} = (${call}).default;`);
    }
    const braces = names.match(/\{([\s\S]*)\}/);
    if (braces) parts.push(`const {${braces[1].replace(/([\w$]+)\s+as\s+([\w$]+)/g, '$1: $2')}} = ${call};`);
    return space + parts.join(' ');
  }

  function post(method, parameters) {
    return new Promise((done, failed) =>
      session.post(method, parameters, (error, answer) => (error ? failed(error) : done(answer))),
    );
  }

  let pending = null;
  // Called through a script, because only those can be interrupted while they do not wait for anything.
  Object.defineProperty(globalThis, '__evaluate', { value: () => { pending = post('Runtime.evaluate', pending); } });
  const evaluation = new vm.Script('__evaluate()', { filename: 'node:anchorhold' });

  async function evaluate(code, name) {
    pending = { expression: `${code}\n//# sourceURL=${name}`, replMode: true, awaitPromise: true, generatePreview: false, userGesture: false };
    const interrupted = new Promise((_, failed) => { interrupt = () => failed(new Interrupted()); });
    interrupted.catch(() => {});
    try {
      evaluation.runInThisContext({ breakOnSigint: true });
      return await Promise.race([pending, interrupted]);
    } catch (error) {
      if (error && error.code === 'ERR_SCRIPT_EXECUTION_INTERRUPTED') throw new Interrupted();
      throw error;
    } finally {
      interrupt = null;
    }
  }

  class Interrupted extends Error {
    constructor() { super('the execution was interrupted'); this.name = 'Interrupted'; }
  }

  // The value itself, of what the inspector speaks of.
  async function held(remote) {
    if (!remote || !remote.objectId) {
      if (remote && remote.unserializableValue) return vm.runInThisContext(`(${remote.unserializableValue})`);
      return remote ? remote.value : undefined;
    }
    let value;
    Object.defineProperty(globalThis, '__hold', { configurable: true, value: (it) => { value = it; } });
    await post('Runtime.callFunctionOn', { functionDeclaration: 'function () { __hold(this) }', objectId: remote.objectId });
    delete globalThis.__hold;
    post('Runtime.releaseObject', { objectId: remote.objectId }).catch(() => {});
    return remote.type === 'symbol' || typeof value !== 'object' || !isBox(value) ? value : value.valueOf();
  }

  function isBox(value) {
    return value instanceof Number || value instanceof String || value instanceof Boolean || value instanceof BigInt || value instanceof Symbol;
  }

  function show(value) {
    const mime = { 'text/plain': util.inspect(value, { depth: 4, maxArrayLength: 200, breakLength: 100 }) };
    if (value && typeof value === 'object' && !util.types.isProxy(value)) {
      try {
        const json = JSON.stringify(value);
        if (json !== undefined && (Array.isArray(value) || Object.getPrototypeOf(value) === Object.prototype)) mime['application/json'] = JSON.parse(json);
      } catch {}
    }
    display(mime, true);
  }

  function display(mime, main = false) {
    let payload = JSON.stringify({ main, mime });
    if (Buffer.byteLength(payload) > VALUE_BYTES_MAX) {
      const note = `[${Buffer.byteLength(payload)} bytes are too many for an answer; write them to a file]`;
      payload = JSON.stringify({ main, mime: { 'text/plain': `${String(mime['text/plain'] ?? '').slice(0, 65536)}\n${note}` } });
    }
    send('V', payload);
  }
  Object.defineProperty(globalThis, 'display', { configurable: true, writable: true, value: (mime) => display(mime) });

  function describe(thrown) {
    const error = thrown instanceof Error || util.types.isNativeError(thrown);
    const name = error ? String(thrown.name || 'Error') : 'Error';
    const message = error ? String(thrown.message) : util.inspect(thrown);
    const stack = error ? String(thrown.stack ?? '') : message;
    const own = stack.split('\n').filter((line) => !/^\s+at (.*(node:|\[eval\])|new Promise \(<anonymous>\)$)/.test(line));
    return { name, message: message.slice(0, 65536), traceback: own.join('\n').slice(0, 262144) };
  }

  class Exit { constructor(code) { this.code = code; } }

  async function run(job) {
    executions += 1;
    const name = `<execution-${executions}>`; // no spaces: it is read from a comment
    let code = job.code;
    if (job.typescript) code = stripTypeScriptTypes(code, { mode: 'transform', sourceUrl: undefined });
    const answer = await evaluate(imports(code), name);
    if (answer.exceptionDetails) {
      throw await held(answer.exceptionDetails.exception);
    }
    const value = await held(answer.result);
    if (value !== undefined) {
      globalThis._ = value;
      show(value);
    }
  }

  function input(path) {
    const stream = fs.createReadStream(path || '/dev/null');
    // Nobody need listen to it.
    stream.on('error', () => {});
    stream.pause();
    Object.defineProperty(process, 'stdin', { configurable: true, get: () => stream });
    return stream;
  }

  process.on('SIGINT', () => { if (interrupt) interrupt(); });
  process.on('uncaughtException', (error) => { process.stderr.write(`Uncaught ${util.inspect(error)}\n`); });
  process.on('unhandledRejection', (error) => { process.stderr.write(`Uncaught (in promise) ${util.inspect(error)}\n`); });
  process.emitWarning = ((emit) => function (warning, ...rest) {
    if (!String(warning).includes('stripTypeScriptTypes')) emit.call(process, warning, ...rest);
  })(process.emitWarning);

  // What is done for the first time takes longest.
  async function rehearse() {
    await held((await evaluate(imports('({})'), '<rehearsal>')).result);
    util.inspect({ a: [1] }, { depth: 4 });
    input(null).destroy();
  }

  async function beginAhead() {
    await rehearse();
    send('R');
    Object.assign(process.env, (await receive()).env);
  }

  (async () => {
    if (process.argv.splice(1, 1)[0] === 'ahead') await beginAhead();
    for (;;) {
      const job = await receive();
      const before = Object.fromEntries(Object.keys(job.env).map((key) => [key, process.env[key]]));
      const place = process.cwd();
      const stream = input(job.input);
      if (job.input) await new Promise((open) => { stream.once('open', open); stream.once('error', open); });
      send('B');
      let ended = {};
      try {
        Object.assign(process.env, job.env);
        if (job.cwd) process.chdir(job.cwd);
        await run(job);
      } catch (thrown) {
        ended = { error: describe(thrown) };
      }
      stream.destroy();
      for (const [key, was] of Object.entries(before)) {
        if (was === undefined) delete process.env[key];
        else process.env[key] = was;
      }
      if (job.cwd) process.chdir(place);
      // What was printed left with the calls that printed it: standard output is a pipe, and those wait.
      send('D', JSON.stringify(ended));
    }
  })();
})();
