// `process`, and the state of it that belongs to one execution: environment, working directory, exit code.

const { cwd, setCwd } = require('path');
const { nextTick } = require('timers');
const { codeError, unavailable } = require('errors');
const { fs } = require('fs');
const EventEmitter = require('events');

const WORKSPACE = '/workspace';

// Values are strings, as in Node.
const env = new Proxy(
  {},
  {
    set: (target, key, value) => Reflect.set(target, key, typeof key === 'symbol' ? value : `${value}`),
    defineProperty: (target, key, descriptor) =>
      Reflect.defineProperty(
        target,
        key,
        'value' in descriptor && typeof key === 'string' ? { ...descriptor, value: `${descriptor.value}` } : descriptor,
      ),
  },
);

// What the environment of an execution hides, to be put back.
let hidden = { length: 0 };

function stream(descriptor, write) {
  return Object.assign(new EventEmitter(), {
    fd: descriptor,
    isTTY: false,
    writable: true,
    columns: 80,
    write(chunk, encoding, callback = encoding) {
      write(typeof chunk === 'string' ? chunk.toWellFormed() : host.utf8Decode(new Uint8Array(chunk)));
      if (typeof callback === 'function') nextTick(callback);
      return true;
    },
    end(chunk) {
      if (chunk !== undefined) this.write(chunk);
    },
  });
}

const stdin = Object.assign(new EventEmitter(), {
  fd: 0,
  isTTY: false,
  setEncoding() {
    return this;
  },
  read: () => fs.readFileSync(0, 'utf8'),
  async *[Symbol.asyncIterator]() {
    const text = fs.readFileSync(0, 'utf8');
    if (text !== '') yield text;
  },
});

function exit(code = process.exitCode ?? 0) {
  process.emit('exit', code);
  host.exit(Math.trunc(Number(code)) & 0xff);
}

function chdir(directory) {
  if (!fs.statSync(directory).isDirectory())
    throw codeError(Error, 'ENOTDIR', `ENOTDIR: not a directory, chdir '${directory}'`);
  setCwd(directory);
}

function hrtime(previous) {
  const ms = host.monotonicMs();
  const [seconds, nanoseconds] = [Math.floor(ms / 1000), Math.floor((ms % 1000) * 1e6)];
  if (!previous) return [seconds, nanoseconds];
  const borrow = nanoseconds < previous[1] ? 1 : 0;
  return [seconds - previous[0] - borrow, nanoseconds - previous[1] + borrow * 1e9];
}
hrtime.bigint = () => BigInt(Math.floor(host.monotonicMs() * 1e6));

const process = Object.assign(new EventEmitter(), {
  title: 'javascript',
  pid: 1,
  ppid: 0,
  arch: 'wasm32',
  platform: 'wasi',
  // What the language offers, told by the version of Node that offers about the same.
  version: 'v22.0.0',
  versions: { node: '22.0.0', ...host.engine.versions },
  release: { name: host.engine.name },
  execPath: '/usr/bin/javascript',
  execArgv: [],
  argv: ['javascript', '/workspace/main.js'],
  env,
  exitCode: undefined,
  stdin,
  stdout: stream(1, host.writeStdout),
  stderr: stream(2, host.writeStderr),
  cwd,
  chdir,
  exit,
  abort: () => exit(134),
  nextTick,
  hrtime,
  uptime: () => host.monotonicMs() / 1000,
  umask: () => 0o22,
  getuid: () => 0,
  memoryUsage: () => ({ rss: 0, heapTotal: 0, heapUsed: 0, external: 0, arrayBuffers: 0 }),
  cpuUsage: () => ({ user: Math.floor(host.monotonicMs() * 1000), system: 0 }),
  emitWarning: (warning) => console.warn(`Warning: ${warning?.message ?? warning}`),
  kill: () => {
    throw unavailable('process.kill');
  },
});

// For the kernel.

function start(variables) {
  for (const name of Object.keys(env)) delete env[name];
  Object.assign(env, variables);
}

// Plain loops: this must work whatever a program did to `Array.prototype`.
function begin(variables, directory) {
  const names = Object.keys(variables ?? {});
  hidden = { length: 0 };
  for (let index = 0; index < names.length; index += 1) {
    const name = names[index];
    hidden[index] = { name, value: env[name] };
    hidden.length = index + 1;
    env[name] = variables[name];
  }
  setCwd(directory ?? WORKSPACE);
}

// Returns the exit code that the program asked for without exiting.
function end() {
  for (let index = 0; index < hidden.length; index += 1) {
    const { name, value } = hidden[index];
    if (value === undefined) delete env[name];
    else env[name] = value;
  }
  hidden = { length: 0 };
  const code = process.exitCode;
  process.exitCode = undefined;
  process.removeAllListeners();
  return code === undefined || code === null ? undefined : Math.trunc(Number(code)) & 0xff;
}

module.exports = { process, start, begin, end };
