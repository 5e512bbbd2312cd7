// `fs`: files of the workspace and of /tmp. Everything is synchronous underneath; the promise and callback
// variants only look asynchronous.

const { codeError, invalidArgument } = require('errors');
const { Buffer, bytesOf, codecOf } = require('buffer');
const { path: paths } = require('path');
const { fileURLToPath, URL } = require('url');

const HOME = '/home/user';
const WORKSPACE = '/workspace';
const STDIN = 0;

const encodingOf = (options) => (typeof options === 'string' ? options : (options?.encoding ?? undefined));

// An absolute path. The home directory is another name of the workspace.
function pathOf(path) {
  if (path instanceof URL) path = fileURLToPath(path);
  if (path instanceof Uint8Array) path = host.utf8Decode(path);
  if (typeof path !== 'string') throw invalidArgument('path', 'of type string or an instance of Buffer or URL', path);
  if (path.includes('\0'))
    throw codeError(TypeError, 'ERR_INVALID_ARG_VALUE', 'The "path" argument must be a string without null bytes');
  const absolute = paths.resolve(path).toWellFormed();
  return absolute === HOME || absolute.startsWith(`${HOME}/`) ? WORKSPACE + absolute.slice(HOME.length) : absolute;
}

function contentsOf(data, options) {
  if (typeof data === 'string') return new Uint8Array(codecOf(encodingOf(options)).encode(data));
  if (ArrayBuffer.isView(data)) return bytesOf(data);
  throw invalidArgument('data', 'of type string or an instance of Buffer, TypedArray, or DataView', data);
}

function readFileSync(path, options) {
  const bytes = path === STDIN || path === '/dev/stdin' ? host.readStdin() : host.readFile(pathOf(path));
  const buffer = Buffer.from(bytes.buffer);
  const encoding = encodingOf(options);
  return encoding === undefined || encoding === null ? buffer : buffer.toString(encoding);
}

function writeFileSync(path, data, options) {
  const bytes = contentsOf(data, options);
  if (path === 1) return host.writeStdout(host.utf8Decode(bytes));
  if (path === 2) return host.writeStderr(host.utf8Decode(bytes));
  return host.writeFile(pathOf(path), bytes, options?.flag ?? 'w');
}

const appendFileSync = (path, data, options) => host.writeFile(pathOf(path), contentsOf(data, options), 'a');

// Stats and directory entries know what they are.

class Kind {
  #kind;

  constructor(kind) {
    this.#kind = kind;
  }

  isFile() {
    return this.#kind === 'file';
  }

  isDirectory() {
    return this.#kind === 'directory';
  }

  isSymbolicLink() {
    return this.#kind === 'link';
  }

  isFIFO() {
    return false;
  }

  isSocket() {
    return false;
  }

  isBlockDevice() {
    return false;
  }

  isCharacterDevice() {
    return false;
  }
}

class Stats extends Kind {
  constructor([kind, size, modified, accessed]) {
    super(kind);
    Object.assign(this, { size, mode: kind === 'directory' ? 0o40755 : 0o100644, uid: 0, gid: 0, nlink: 1 });
    Object.assign(this, { atimeMs: accessed, mtimeMs: modified, ctimeMs: modified, birthtimeMs: modified });
    Object.assign(this, {
      atime: new Date(accessed),
      mtime: new Date(modified),
      ctime: new Date(modified),
      birthtime: new Date(modified),
    });
  }
}

class Dirent extends Kind {
  constructor(parent, [name, kind]) {
    super(kind);
    this.name = name;
    this.parentPath = parent;
    this.path = parent;
  }
}

function stat(path, follow, options) {
  try {
    return new Stats(host.stat(pathOf(path), follow));
  } catch (error) {
    if (options?.throwIfNoEntry === false && error.code === 'ENOENT') return undefined;
    throw error;
  }
}

const statSync = (path, options) => stat(path, true, options);
const lstatSync = (path, options) => stat(path, false, options);

function existsSync(path) {
  try {
    return host.stat(pathOf(path), true) !== undefined;
  } catch {
    return false;
  }
}

function accessSync(path) {
  host.stat(pathOf(path), true);
}

function mkdirSync(path, options) {
  const absolute = pathOf(path);
  if (!options?.recursive) return host.makeDirectory(absolute);
  let first;
  let at = '';
  for (const part of absolute.split('/').slice(1)) {
    at += `/${part}`;
    if (existsSync(at)) continue;
    host.makeDirectory(at);
    first ??= at;
  }
  // Making what is there is fine, unless it is a file.
  if (!statSync(absolute).isDirectory()) return host.makeDirectory(absolute);
  return first;
}

function mkdtempSync(prefix) {
  const suffix = Array.from(host.randomBytes(6), (byte) => (byte % 36).toString(36)).join('');
  mkdirSync(prefix + suffix);
  return prefix + suffix;
}

function readdirSync(path, options) {
  const entries = list(pathOf(path), options?.recursive ? '' : undefined);
  if (options?.withFileTypes)
    return entries.map(
      ([name, kind]) => new Dirent(paths.dirname(paths.join(`${path}`, name)), [paths.basename(name), kind]),
    );
  return entries.map(([name]) => name);
}

// With a prefix, what is in the directories below as well.
function list(directory, prefix) {
  const entries = host.readDirectory(directory);
  if (prefix === undefined) return entries;
  return entries.flatMap(([name, kind]) => {
    const entry = [prefix + name, kind];
    return kind === 'directory' ? [entry, ...list(`${directory}/${name}`, `${prefix}${name}/`)] : [entry];
  });
}

function rmSync(path, options) {
  const absolute = pathOf(path);
  const found = lstatSync(absolute, { throwIfNoEntry: !options?.force });
  if (!found) return;
  if (!found.isDirectory()) return host.removeFile(absolute);
  if (!options?.recursive)
    throw codeError(Error, 'ERR_FS_EISDIR', `Path is a directory: rm returned EISDIR (is a directory) ${path}`);
  removeTree(absolute);
}

function removeTree(directory) {
  for (const [name, kind] of host.readDirectory(directory)) {
    if (kind === 'directory') removeTree(`${directory}/${name}`);
    else host.removeFile(`${directory}/${name}`);
  }
  host.removeDirectory(directory);
}

const constants = { F_OK: 0, R_OK: 4, W_OK: 2, X_OK: 1, COPYFILE_EXCL: 1 };

function copyFileSync(from, to, mode = 0) {
  host.copyFile(pathOf(from), pathOf(to), (mode & constants.COPYFILE_EXCL) !== 0);
}

function cpSync(from, to, options) {
  if (!statSync(from).isDirectory()) return copyFileSync(from, to);
  if (!options?.recursive)
    throw codeError(Error, 'ERR_FS_EISDIR', `Recursive option not enabled, cannot copy a directory: ${from}`);
  mkdirSync(to, { recursive: true });
  for (const [name] of host.readDirectory(pathOf(from))) cpSync(paths.join(from, name), paths.join(to, name), options);
}

const sync = {
  readFileSync,
  writeFileSync,
  appendFileSync,
  existsSync,
  accessSync,
  statSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  copyFileSync,
  cpSync,
  unlinkSync: (path) => host.removeFile(pathOf(path)),
  rmdirSync: (path) => host.removeDirectory(pathOf(path)),
  renameSync: (from, to) => host.rename(pathOf(from), pathOf(to)),
  truncateSync: (path, length = 0) => host.truncate(pathOf(path), length),
  realpathSync: (path) => (accessSync(path), pathOf(path)),
};

const promises = { constants };
const callbacks = {};
for (const [name, call] of Object.entries(sync)) {
  const short = name.slice(0, -'Sync'.length);
  if (short === 'exists') continue;
  promises[short] = async (...args) => call(...args);
  callbacks[short] = (...args) => {
    const callback = args.pop();
    if (typeof callback !== 'function') throw invalidArgument('cb', 'of type function', callback);
    promises[short](...args).then(
      (value) => setTimeout(callback, 0, null, value),
      (error) => setTimeout(callback, 0, error),
    );
  };
}

module.exports = { fs: { ...sync, ...callbacks, promises, constants, Stats, Dirent }, promises };
