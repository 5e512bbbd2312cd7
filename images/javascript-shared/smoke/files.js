// Files of the workspace and of /tmp.
//%%
const fs = require('fs'); const path = require('path');
fs.writeFileSync('a.txt', 'one\n'); fs.appendFileSync('a.txt', 'two\n'); fs.writeFileSync('b.bin', new Uint8Array([0, 255, 16]));
console.log(fs.readFileSync('a.txt', 'utf8'), fs.readFileSync('/workspace/b.bin'), fs.readFileSync('b.bin', { encoding: 'hex' }));
console.log(fs.existsSync('a.txt'), fs.existsSync('/home/user/a.txt'), fs.existsSync('nope'), fs.statSync('a.txt').size, fs.statSync('.').isDirectory());
fs.mkdirSync('d/e/f', { recursive: true }); fs.mkdirSync('d/e/f', { recursive: true }); fs.writeFileSync('d/e/x.json', '{"k":[1]}'); fs.copyFileSync('a.txt', 'd/copy.txt'); fs.renameSync('d/copy.txt', 'd/moved.txt');
console.log(fs.readdirSync('d'), fs.readdirSync('d', { withFileTypes: true }).map((e) => [e.name, e.isDirectory(), e.isFile()]), fs.readdirSync('d', { recursive: true }));
fs.unlinkSync('b.bin'); fs.rmSync('d/e', { recursive: true }); fs.rmSync('not there', { force: true }); console.log(fs.readdirSync('.'), fs.readdirSync('/workspace/d'));
//%%
for (const attempt of [() => fs.readFileSync('missing.txt'), () => fs.mkdirSync('d'), () => fs.readdirSync('a.txt'), () => fs.rmSync('d'), () => fs.rmdirSync('d'), () => fs.readFileSync('/etc/passwd'), () => fs.writeFileSync('/x', ''), () => fs.readFileSync('../../etc/passwd'), () => fs.readFileSync(5.5), () => fs.readFileSync('nul\0'), () => fs.writeFileSync('a.txt', {}), () => fs.writeFileSync('a.txt', 'x', { flag: 'wx' })]) {
  try { attempt(); console.log('no error'); } catch (error) { console.log(error.code, '-', error.message); }
}
//%%
await fs.promises.writeFile('p.txt', 'promised'); console.log(await require('fs/promises').readFile('p.txt', 'utf8'));
await fs.promises.readFile('missing').catch((error) => console.log(error.code, error.syscall, error.path));
fs.readFile('p.txt', 'utf8', (error, text) => console.log(error, text)); fs.readFile('missing', (error) => console.log(error.code));
//%% { cwd = "/tmp" }
console.log(process.cwd(), path.resolve('x')); fs.writeFileSync('here.txt', 't'); console.log(fs.readFileSync('/tmp/here.txt', 'latin1'));
//%%
console.log(process.cwd()); process.chdir('d'); console.log(process.cwd(), fs.readdirSync('.')); try { process.chdir('nowhere'); } catch (error) { console.log(error.code); }
//%%
console.log(process.cwd(), path.join('a', '..', 'b', './c'), path.extname('x.tar.gz'), path.basename('/q/w.js', '.js'), path.dirname('/a/b'), path.parse('/home/u/f.txt'), path.relative('/a/b/c', '/a/d'), path.normalize('/a//b/../c/'), path.isAbsolute('x'));
//%% { stdin = "first line\nsecond\nrest of it" }
const name = prompt('Name?'); console.log([name, prompt()]); console.log(JSON.stringify(fs.readFileSync(0, 'utf8'))); console.log(prompt());
//%% { env = { ONE = "1" } }
process.env.TWO = 2; console.log(process.env.ONE, process.env.TWO, typeof process.env.TWO, 'ONE' in process.env);
//%%
console.log(process.env.ONE, process.env.TWO, Object.keys(process.env).includes('ONE'));
