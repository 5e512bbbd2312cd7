// `require` and what `import()` finds: built-in modules and files of the workspace.

const { codeError, unavailable } = require('errors');
const { path: paths, cwd } = require('path');
const { fs, promises: fsPromises } = require('fs');
const { Buffer } = require('buffer');
const { console } = require('console');
const timers = require('timers');
const url = require('url');
const util = require('util');
const assert = require('assert');
const encoding = require('encoding');

// Node's modules that need what a WASI guest has not.
const UNAVAILABLE = new Set([
  'async_hooks',
  'child_process',
  'cluster',
  'dgram',
  'diagnostics_channel',
  'dns',
  'dns/promises',
  'domain',
  'http',
  'http2',
  'https',
  'inspector',
  'net',
  'readline',
  'readline/promises',
  'repl',
  'sqlite',
  'stream',
  'stream/promises',
  'stream/web',
  'tls',
  'trace_events',
  'tty',
  'v8',
  'vm',
  'wasi',
  'worker_threads',
  'zlib',
  'test',
]);

const os = {
  EOL: '\n',
  devNull: '/dev/null',
  platform: () => 'wasi',
  type: () => 'WASI',
  release: () => 'preview1',
  arch: () => 'wasm32',
  endianness: () => 'LE',
  hostname: () => 'localhost',
  homedir: () => '/home/user',
  tmpdir: () => '/tmp',
  uptime: () => host.monotonicMs() / 1000,
  cpus: () => [],
  availableParallelism: () => 1,
  userInfo: () => ({ username: 'user', uid: 0, gid: 0, shell: null, homedir: '/home/user' }),
};

const performance = {
  timeOrigin: 0,
  now: () => host.monotonicMs(),
  mark: () => undefined,
  measure: () => undefined,
  toJSON: () => ({ timeOrigin: performance.timeOrigin }),
};

const builtins = {
  assert,
  'assert/strict': assert.strict,
  buffer: { Buffer, atob: encoding.atob, btoa: encoding.btoa, constants: { MAX_LENGTH: 2 ** 31 - 1 } },
  console,
  crypto: require('crypto').node,
  events: require('events'),
  fs,
  'fs/promises': fsPromises,
  os,
  path: paths,
  'path/posix': paths,
  perf_hooks: { performance },
  process: require('process').process,
  timers: {
    setTimeout: timers.setTimeout,
    setInterval: timers.setInterval,
    setImmediate: timers.setImmediate,
    clearTimeout: timers.clearTimeout,
    clearInterval: timers.clearInterval,
    clearImmediate: timers.clearImmediate,
    promises: timers.promises,
  },
  'timers/promises': timers.promises,
  url,
  util,
  'util/types': util.types,
};

const withoutPrefix = (name) => (name.startsWith('node:') ? name.slice('node:'.length) : name);
const isPath = (name) => /^(\.{1,2}(\/|$)|\/|file:)/.test(name);

function builtin(name) {
  const bare = withoutPrefix(name);
  if (Object.hasOwn(builtins, bare)) return builtins[bare];
  if (UNAVAILABLE.has(bare)) throw unavailable(`the module '${bare}'`);
  throw notFound(
    `Cannot find package '${name}': the wasm JavaScript runtime has no packages. Use the native runtime for them.`,
  );
}

const notFound = (message) => codeError(Error, 'MODULE_NOT_FOUND', message);

// The file that a specifier means: itself, with an ending, or the index of a directory.
function resolveFile(specifier, directory, endings) {
  const plain = specifier.startsWith('file:') ? url.fileURLToPath(specifier) : specifier;
  const start = paths.resolve(directory, plain);
  const candidates = [
    start,
    ...endings.map((ending) => start + ending),
    ...endings.map((ending) => `${start}/index${ending}`),
  ];
  const found = candidates.find((path) => fs.statSync(path, { throwIfNoEntry: false })?.isFile());
  if (!found) throw notFound(`Cannot find module '${specifier}' from '${directory}'`);
  return found;
}

// CommonJS. Loaded files are kept for the session, as a Node process keeps them.

const loaded = Object.create(null);

function compile(path, source) {
  // Through `Function` the source keeps no position of its own, so its lines are named by the file.
  return host.compileFunction(path, `(function (exports, require, module, __filename, __dirname) { ${source}\n})`);
}

function loadFile(path) {
  const known = loaded[path];
  if (known) return known.exports;
  const module = { id: path, filename: path, path: paths.dirname(path), exports: {}, loaded: false, children: [] };
  loaded[path] = module;
  try {
    runFile(module);
    module.loaded = true;
  } finally {
    if (!module.loaded) delete loaded[path];
  }
  return module.exports;
}

function runFile(module) {
  const source = fs
    .readFileSync(module.filename, 'utf8')
    .replace(/^\ufeff/, '')
    .replace(/^#!.*/, '');
  if (module.filename.endsWith('.json')) {
    module.exports = parseJson(module.filename, source);
    return;
  }
  if (module.filename.endsWith('.mjs')) {
    throw codeError(
      Error,
      'ERR_REQUIRE_ESM',
      `${module.filename} is an ES module. Use await import('${module.filename}').`,
    );
  }
  module.require = requireFrom(() => module.path);
  compile(module.filename, source).call(
    module.exports,
    module.exports,
    module.require,
    module,
    module.filename,
    module.path,
  );
}

function parseJson(path, source) {
  try {
    return JSON.parse(source);
  } catch (error) {
    error.message = `${path}: ${error.message}`;
    throw error;
  }
}

function requireFrom(directory) {
  const resolve = (name) =>
    isPath(name) ? resolveFile(name, directory(), ['.js', '.json', '.cjs']) : (builtin(name), withoutPrefix(name));
  const require = (name) => {
    if (typeof name !== 'string')
      throw codeError(TypeError, 'ERR_INVALID_ARG_TYPE', 'The "id" argument must be of type string');
    return isPath(name) ? loadFile(resolve(name)) : builtin(name);
  };
  return Object.assign(require, { resolve, cache: loaded });
}

builtins.module = {
  createRequire: (from) =>
    requireFrom(() => paths.dirname(`${from}`.startsWith('file:') ? url.fileURLToPath(from) : `${from}`)),
};
builtins.module.builtinModules = Object.keys(builtins);

// ES modules. A name is `node:fs`, or the path of a file with what follows a `?`.

function resolve(base, specifier) {
  if (!isPath(specifier)) {
    builtin(specifier);
    return `node:${withoutPrefix(specifier)}`;
  }
  const [, name, query] = /^([^?]*)(\?.*)?$/s.exec(specifier);
  const directory = base.startsWith('/') ? paths.dirname(base) : cwd();
  return resolveFile(name, directory, ['.mjs', '.js', '.json', '.cjs']) + (query ?? '');
}

function load(name) {
  if (name.startsWith('node:')) return synthetic(builtin(name));
  const path = name.replace(/\?.*$/s, '');
  if (path.endsWith('.json') || path.endsWith('.cjs')) return synthetic(loadFile(path));
  const source = fs.readFileSync(path, 'utf8').replace(/^\ufeff/, '');
  if (path.endsWith('.js') && isCommonJs(path, source)) return synthetic(loadFile(path));
  return {
    source,
    meta: { url: url.pathToFileURL(path).href, filename: path, dirname: paths.dirname(path), main: false },
  };
}

// A `.js` file may be either. As in Node, it is CommonJS if it compiles as that.
function isCommonJs(path, source) {
  try {
    compile(path, source.replace(/^#!.*/, ''));
    return true;
  } catch (error) {
    if (error instanceof SyntaxError) return false;
    throw error;
  }
}

// A module whose exports are the properties of an object.
function synthetic(exports) {
  const keys = typeof exports === 'object' || typeof exports === 'function' ? Object.keys(exports ?? {}) : [];
  const names = keys.filter((key) => key !== 'default' && /^[A-Za-z_$][\w$]*$/.test(key));
  const list = names.map(
    (name, index) => `const _${index} = exports[${JSON.stringify(name)}]; export { _${index} as ${name} };`,
  );
  return { source: `const { exports } = import.meta; export default exports; ${list.join(' ')}`, meta: { exports } };
}

module.exports = { require: requireFrom(cwd), resolve, load, performance };
