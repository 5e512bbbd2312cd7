// Web APIs.
//%%
const u = new URL('../p/a th?q=1&q=2#h', 'https://user:pa@Exämple.org:8080/x/y/z'); console.log(u.href, u.host, u.searchParams.getAll('q'));
u.searchParams.append('k', 'v w&'); u.hash = ''; u.port = '443'; u.pathname = '/é'; console.log(`${u}`, u.search, u.origin, JSON.stringify({ u })); u.search = '?z=9'; console.log(u.searchParams.get('z'), [...u.searchParams]);
console.log(u, new URLSearchParams({ a: '1 2', b: 'é' }).toString(), URL.canParse('nope'), new URLSearchParams('a=%F0%9F%91%8D+x&b').get('a'), new URLSearchParams([['x', 'y']]));
try { new URL('nope'); } catch (error) { console.log(error.name, error.code, error.message, error.input); }
//%%
console.log(new TextEncoder().encode('é👍'), new TextDecoder().decode(new Uint8Array([0xef, 0xbb, 0xbf, 0xc3, 0xa9, 0xff])), new TextDecoder('utf-16le').decode(new Uint8Array([0x61, 0, 0x3d, 0xd8, 0x4d, 0xdc])), new TextDecoder('latin1').decode(new Uint8Array([0xe9, 0x80])));
try { new TextDecoder('utf-8', { fatal: true }).decode(new Uint8Array([0xff])); } catch (error) { console.log(error.name); }
const streaming = new TextDecoder(); console.log(streaming.decode(new Uint8Array([0xf0, 0x9f]), { stream: true }) + streaming.decode(new Uint8Array([0x91, 0x8d])), new TextEncoder().encodeInto('aé', new Uint8Array(2)));
console.log(btoa('hello'), atob('aGVsbG8='), atob(' aGVs bG8 ')); for (const f of [() => btoa('€'), () => atob('a')]) try { f(); } catch (error) { console.log(error.name, error instanceof DOMException); }
//%%
const source = { d: new Date(0), m: new Map([['k', { v: new Set([1]) }]]), r: /x/gi, e: new RangeError('bad'), b: new Uint8Array([1, 2]), n: 10n, u: undefined, a: [1, , 3] }; source.self = source; const copy = structuredClone(source);
console.log(copy, copy !== source, copy.self === copy, copy.e instanceof RangeError, copy.m.get('k') !== source.m.get('k'), copy.b.buffer !== source.b.buffer, 1 in copy.a);
for (const bad of [() => {}, Symbol('s'), { f() {} }, new WeakMap(), Promise.resolve()]) try { structuredClone(bad); console.log('cloned'); } catch (error) { console.log(error.name, error.message); }
const { buffer } = new Uint8Array([7]); const moved = structuredClone(buffer, { transfer: [buffer] }); console.log(buffer.byteLength, moved);
//%%
const target = new EventTarget(); target.addEventListener('x', (event) => console.log(event.type, event.detail, event.target === target), { once: true }); target.dispatchEvent(new CustomEvent('x', { detail: 5 })); target.dispatchEvent(new Event('x'));
const c = new AbortController(); c.signal.addEventListener('abort', () => console.log('aborted', c.signal.reason)); c.abort('why'); try { c.signal.throwIfAborted(); } catch (error) { console.log(error); }
console.log(AbortSignal.abort().reason.name, AbortSignal.any([AbortSignal.abort(1)]).reason, AbortSignal.timeout(5).aborted);
//%%
const { Buffer: B } = require('buffer'); console.log(Buffer === B, Buffer.from('héllo').toString('base64'), Buffer.from('aGk', 'base64').toString(), Buffer.from('ff00', 'hex'), Buffer.concat([Buffer.from('a'), Buffer.from('b')]).toString(), Buffer.byteLength('é'), Buffer.alloc(3, 1), Buffer.isBuffer(new Uint8Array(1)));
const b = Buffer.alloc(8); b.writeUInt32BE(0xdeadbeef, 0); b.writeInt16LE(-2, 4); console.log(b, b.readUInt32BE(0).toString(16), b.readInt16LE(4), JSON.stringify(Buffer.from('x')), b.subarray(0, 2), b.slice(0, 1).length, b.equals(Buffer.from(b)), Buffer.from('abcabc').indexOf('ca'), Buffer.from([256, 1]), [...Buffer.from('ab').entries()]);
//%%
console.log(crypto.randomUUID().length, crypto.getRandomValues(new Uint8Array(4)).length, require('crypto').randomBytes(5).length, require('crypto').randomInt(5, 6), performance.now() > 0, performance.timeOrigin > 1e12);
try { crypto.getRandomValues(new Uint8Array(65537)); } catch (error) { console.log(error.name); } try { crypto.subtle; } catch (error) { console.log(error.message); } try { require('crypto').createHash('sha256'); } catch (error) { console.log(error.code); }
console.log(process.argv, process.platform, process.version, typeof process.hrtime.bigint(), process.uptime() >= 0, globalThis.global === globalThis, typeof require, typeof module, typeof exports);
//%%
console.log(Object.groupBy([1, 2, 3], (x) => (x % 2 ? 'odd' : 'even')), [1, 2, 3].at(-1), [3, 1].toSorted(), 'a-b'.replaceAll('-', '+'), Array.fromAsync !== undefined, 2n ** 64n, new Set([1, 2]).union(new Set([3])), Promise.withResolvers !== undefined, structuredClone !== undefined, 'x'.isWellFormed(), Iterator.from([1, 2]).map((x) => x * 2).toArray());
console.log(new Date(0).toLocaleDateString(), (1234.5).toLocaleString(), [1, 2].toLocaleString(), 'é'.normalize('NFD').length, 'ä'.localeCompare('b'), /(?<y>\d{4})/u.exec('in 2024').groups.y, 'ß'.toUpperCase(), /\p{L}+/u.exec('1é2')[0]);
