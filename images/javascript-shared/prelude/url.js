// `URL` and `URLSearchParams` over the WHATWG parser in Rust. A URL is its text; parts are asked for when needed.

const { codeError } = require('errors');
const { inspect } = require('inspect');

const PARTS = ['protocol', 'username', 'password', 'host', 'hostname', 'port', 'pathname', 'search', 'hash', 'origin'];
const SHOWN = [
  'href',
  'origin',
  'protocol',
  'username',
  'password',
  'host',
  'hostname',
  'port',
  'pathname',
  'search',
  'searchParams',
  'hash',
];

const text = (value) => `${value}`.toWellFormed();

function parse(input, base) {
  return base === undefined ? host.urlParse(text(input)) : host.urlParse(text(input), text(base));
}

class URL {
  #href;
  #parts;
  #searchParams;

  static canParse(input, base) {
    return parse(input, base) !== undefined;
  }

  static parse(input, base) {
    return URL.canParse(input, base) ? new URL(input, base) : null;
  }

  constructor(input, base) {
    const href = parse(input, base);
    if (href === undefined) {
      const error = codeError(TypeError, 'ERR_INVALID_URL', 'Invalid URL');
      error.input = `${input}`;
      if (base !== undefined) error.base = `${base}`;
      throw error;
    }
    this.#href = href;
  }

  get href() {
    return this.#href;
  }

  set href(value) {
    this.#update(new URL(value).href);
  }

  get searchParams() {
    this.#searchParams ??= bound(this.search, (query) => this.#set('search', query, true));
    return this.#searchParams;
  }

  toString() {
    return this.#href;
  }

  toJSON() {
    return this.#href;
  }

  part(index) {
    this.#parts ??= host.urlParts(this.#href);
    return this.#parts[index];
  }

  setPart(name, value) {
    this.#set(name, text(value));
  }

  #set(name, value, fromParams = false) {
    this.#update(host.urlSet(this.#href, name, value), fromParams);
  }

  #update(href, fromParams = false) {
    this.#href = href;
    this.#parts = undefined;
    if (this.#searchParams && !fromParams) refill(this.#searchParams, this.search);
  }

  [inspect.custom](depth, options) {
    if (depth < 0) return '[URL]';
    const shown = Object.fromEntries(SHOWN.map((name) => [name, this[name]]));
    return `URL ${inspect(shown, { ...options, depth })}`;
  }
}

const { part, setPart } = URL.prototype;
delete URL.prototype.part;
delete URL.prototype.setPart;

PARTS.forEach((name, index) => {
  const accessor = {
    get() {
      return part.call(this, index);
    },
    enumerable: true,
    configurable: true,
  };
  if (name !== 'origin')
    accessor.set = function (value) {
      setPart.call(this, name, value);
    };
  Object.defineProperty(URL.prototype, name, accessor);
});

// application/x-www-form-urlencoded

function encode(value) {
  return encodeURIComponent(value).replace(
    /[!'()~]|%20/g,
    (found) => ({ '!': '%21', "'": '%27', '(': '%28', ')': '%29', '~': '%7E', '%20': '+' })[found],
  );
}

function decode(value) {
  const spaced = value.replace(/\+/g, ' ');
  if (!spaced.includes('%')) return spaced;
  const bytes = [];
  const source = host.utf8Encode(spaced.toWellFormed());
  for (let index = 0; index < source.length; index += 1) {
    const digits = source[index] === 0x25 ? String.fromCharCode(...source.subarray(index + 1, index + 3)) : '';
    if (/^[0-9a-f]{2}$/i.test(digits)) {
      bytes.push(parseInt(digits, 16));
      index += 2;
    } else bytes.push(source[index]);
  }
  return host.utf8Decode(Uint8Array.from(bytes));
}

function parseQuery(query) {
  return query
    .replace(/^\?/, '')
    .split('&')
    .filter((pair) => pair !== '')
    .map((pair) => {
      const equals = pair.indexOf('=');
      return equals === -1 ? [decode(pair), ''] : [decode(pair.slice(0, equals)), decode(pair.slice(equals + 1))];
    });
}

let bound;
let refill;

class URLSearchParams {
  #pairs;
  #changed = () => {};

  static {
    bound = (query, changed) => {
      const params = new URLSearchParams(query);
      params.#changed = () => changed(params.toString());
      return params;
    };
    refill = (params, query) => {
      params.#pairs = parseQuery(query);
    };
  }

  constructor(init = '') {
    if (typeof init !== 'object' || init === null) this.#pairs = parseQuery(text(init));
    else if (typeof init[Symbol.iterator] === 'function') this.#pairs = Array.from(init, pairOf);
    else this.#pairs = Object.entries(init).map(([name, value]) => [text(name), text(value)]);
  }

  get size() {
    return this.#pairs.length;
  }

  append(name, value) {
    this.#pairs.push([text(name), text(value)]);
    this.#changed();
  }

  delete(name, value) {
    this.#pairs = this.#pairs.filter(
      (pair) => pair[0] !== text(name) || (value !== undefined && pair[1] !== text(value)),
    );
    this.#changed();
  }

  get(name) {
    return this.#pairs.find((pair) => pair[0] === text(name))?.[1] ?? null;
  }

  getAll(name) {
    return this.#pairs.filter((pair) => pair[0] === text(name)).map((pair) => pair[1]);
  }

  has(name, value) {
    return this.#pairs.some((pair) => pair[0] === text(name) && (value === undefined || pair[1] === text(value)));
  }

  set(name, value) {
    const first = this.#pairs.find((pair) => pair[0] === text(name));
    if (!first) return this.append(name, value);
    first[1] = text(value);
    this.#pairs = this.#pairs.filter((pair) => pair === first || pair[0] !== first[0]);
    this.#changed();
  }

  sort() {
    this.#pairs.sort((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0));
    this.#changed();
  }

  forEach(callback, self) {
    for (const [name, value] of this.#pairs) callback.call(self, value, name, this);
  }

  *entries() {
    for (const [name, value] of this.#pairs) yield [name, value];
  }

  *keys() {
    for (const [name] of this.#pairs) yield name;
  }

  *values() {
    for (const [, value] of this.#pairs) yield value;
  }

  toString() {
    return this.#pairs.map(([name, value]) => `${encode(name)}=${encode(value)}`).join('&');
  }

  [inspect.custom](depth, options) {
    const pairs = this.#pairs.map(([name, value]) => `${inspect(name, options)} => ${inspect(value, options)}`);
    return pairs.length === 0 ? 'URLSearchParams {}' : `URLSearchParams { ${pairs.join(', ')} }`;
  }
}

URLSearchParams.prototype[Symbol.iterator] = URLSearchParams.prototype.entries;

function pairOf(item) {
  const pair = Array.from(item, text);
  if (pair.length !== 2)
    throw codeError(TypeError, 'ERR_INVALID_TUPLE', 'Each query pair must be an iterable [name, value] tuple');
  return pair;
}

function fileURLToPath(url) {
  const parsed = typeof url === 'string' ? new URL(url) : url;
  if (parsed.protocol !== 'file:')
    throw codeError(TypeError, 'ERR_INVALID_URL_SCHEME', 'The URL must be of scheme file');
  return decodeURIComponent(parsed.pathname);
}

const pathToFileURL = (path) =>
  new URL(`file://${encodeURI(require('path').path.resolve(path)).replace(/[?#]/g, encodeURIComponent)}`);

module.exports = { URL, URLSearchParams, fileURLToPath, pathToFileURL };
