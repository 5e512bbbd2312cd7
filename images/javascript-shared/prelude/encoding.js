// `TextEncoder`, `TextDecoder`, `atob` and `btoa`.

const { codeError } = require('errors');

const LABELS = {
  'utf-8': 'utf-8',
  utf8: 'utf-8',
  'unicode-1-1-utf-8': 'utf-8',
  'utf-16le': 'utf-16le',
  'utf-16': 'utf-16le',
  'ucs-2': 'utf-16le',
  unicode: 'utf-16le',
  latin1: 'windows-1252',
  'iso-8859-1': 'windows-1252',
  ascii: 'windows-1252',
  'us-ascii': 'windows-1252',
  'windows-1252': 'windows-1252',
};

// What windows-1252 has in place of the control characters 0x80 to 0x9f.
const WINDOWS_1252 = '€\x81‚ƒ„…†‡ˆ‰Š‹Œ\x8dŽ\x8f\x90‘’“”•–—˜™š›œ\x9džŸ';

function bytesOf(input) {
  if (input === undefined) return new Uint8Array(0);
  if (input instanceof ArrayBuffer || input instanceof SharedArrayBuffer) return new Uint8Array(input);
  if (ArrayBuffer.isView(input)) return new Uint8Array(input.buffer, input.byteOffset, input.byteLength);
  throw codeError(TypeError, 'ERR_INVALID_ARG_TYPE', 'The "input" argument must be an ArrayBuffer or a view of one');
}

class TextEncoder {
  get encoding() {
    return 'utf-8';
  }

  encode(text = '') {
    return host.utf8Encode(`${text}`.toWellFormed());
  }

  encodeInto(text, target) {
    let read = 0;
    let written = 0;
    for (const character of `${text}`) {
      const bytes = host.utf8Encode(character.toWellFormed());
      if (written + bytes.length > target.length) break;
      target.set(bytes, written);
      written += bytes.length;
      read += character.length;
    }
    return { read, written };
  }
}

// How many bytes at the end of `bytes` begin a UTF-8 sequence that goes on in the next chunk.
function unfinishedUtf8(bytes) {
  for (let back = 1; back <= Math.min(3, bytes.length); back += 1) {
    const byte = bytes[bytes.length - back];
    if ((byte & 0xc0) === 0x80) continue;
    const needed = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
    return needed > back ? back : 0;
  }
  return 0;
}

const decoders = {
  'utf-8': (bytes, fatal) => host.utf8Decode(bytes, fatal),
  'utf-16le': (bytes) => {
    let text = '';
    for (let index = 0; index + 1 < bytes.length; index += 2)
      text += String.fromCharCode(bytes[index] | (bytes[index + 1] << 8));
    return text.toWellFormed();
  },
  'windows-1252': (bytes) => {
    let text = '';
    for (const byte of bytes)
      text += byte >= 0x80 && byte < 0xa0 ? WINDOWS_1252[byte - 0x80] : String.fromCharCode(byte);
    return text;
  },
};

class TextDecoder {
  #pending = new Uint8Array(0);
  #atStart = true;

  constructor(label = 'utf-8', { fatal = false, ignoreBOM = false } = {}) {
    const encoding = LABELS[`${label}`.trim().toLowerCase()];
    if (!encoding)
      throw codeError(RangeError, 'ERR_ENCODING_NOT_SUPPORTED', `The "${label}" encoding is not supported`);
    Object.defineProperties(this, {
      encoding: { value: encoding },
      fatal: { value: fatal },
      ignoreBOM: { value: ignoreBOM },
    });
  }

  decode(input, { stream = false } = {}) {
    let bytes = bytesOf(input);
    if (this.#pending.length > 0) bytes = Uint8Array.from([...this.#pending, ...bytes]);
    const kept = stream ? this.#unfinished(bytes) : 0;
    this.#pending = bytes.slice(bytes.length - kept);
    let text = decoders[this.encoding](bytes.subarray(0, bytes.length - kept), this.fatal);
    if (this.#atStart && !this.ignoreBOM && text.startsWith('\ufeff')) text = text.slice(1);
    this.#atStart = !stream || (this.#atStart && text === '');
    return text;
  }

  #unfinished(bytes) {
    if (this.encoding === 'utf-8') return unfinishedUtf8(bytes);
    return this.encoding === 'utf-16le' ? bytes.length % 2 : 0;
  }
}

// Base64, one character a byte, as the web has it.

const ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/';
const VALUES = new Map([...ALPHABET].map((character, value) => [character, value]));

function encodeBase64(bytes) {
  const parts = [];
  for (let index = 0; index < bytes.length; index += 3) {
    const group = (bytes[index] << 16) | ((bytes[index + 1] ?? 0) << 8) | (bytes[index + 2] ?? 0);
    const left = bytes.length - index;
    parts.push(
      ALPHABET[group >> 18] +
        ALPHABET[(group >> 12) & 63] +
        (left > 1 ? ALPHABET[(group >> 6) & 63] : '=') +
        (left > 2 ? ALPHABET[group & 63] : '='),
    );
  }
  return parts.join('');
}

// The bytes, or undefined if a character is no digit of base64.
function decodeBase64(text) {
  const bytes = new Uint8Array(Math.floor((text.length * 3) / 4));
  let group = 0;
  let bits = 0;
  let length = 0;
  for (const character of text) {
    const value = VALUES.get(character);
    if (value === undefined) return undefined;
    group = ((group << 6) | value) & 0xffffff;
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      bytes[length++] = (group >> bits) & 0xff;
    }
  }
  return bytes.subarray(0, length);
}

function fromBinaryString(text) {
  const bytes = new Uint8Array(text.length);
  for (let index = 0; index < text.length; index += 1) bytes[index] = text.charCodeAt(index);
  return bytes;
}

function toBinaryString(bytes) {
  const parts = [];
  for (let index = 0; index < bytes.length; index += 4096)
    parts.push(String.fromCharCode(...bytes.subarray(index, index + 4096)));
  return parts.join('');
}

const invalidCharacter = (message) => new DOMException(message, 'InvalidCharacterError');

function btoa(value) {
  const text = `${value}`;
  if (/[^\x00-\xff]/.test(text)) throw invalidCharacter('Invalid character');
  return encodeBase64(fromBinaryString(text));
}

function atob(value) {
  let text = `${value}`.replace(/[\t\n\f\r ]/g, '');
  if (text.length % 4 === 0) text = text.replace(/==?$/, '');
  const bytes = text.length % 4 === 1 ? undefined : decodeBase64(text);
  if (!bytes) throw invalidCharacter('The string to be decoded is not correctly encoded.');
  return toBinaryString(bytes);
}

module.exports = {
  TextEncoder,
  TextDecoder,
  atob,
  btoa,
  bytesOf,
  encodeBase64,
  decodeBase64,
  fromBinaryString,
  toBinaryString,
};
