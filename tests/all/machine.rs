//! What programs of native cells expect of a machine, beside files and processes.

use crate::Shared;
use crate::native::{run, session};
use anyhow::{Result, ensure};

tests!(
    programs_drive_others_by_terminals,
    interfaces_and_services_are_listed,
    processors_are_counted,
    environments_are_made_and_programs_run_by_descriptor,
    a_terminals_tricks_stay_refused,
);

fn programs_drive_others_by_terminals(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    let code = "import os, pexpect, pty\n\
        child = pexpect.spawn('bash', ['--norc'], dimensions=(33, 77), encoding='utf-8')\n\
        child.sendline('stty size; tty; p=name; read -p $p: x; echo [$x]')\n\
        child.expect('name:')\n\
        print('33 77' in child.before, '/dev/pts/' in child.before)\n\
        child.sendline('Ada'); child.expect(r'\\[Ada\\]'); child.sendeof(); child.expect(pexpect.EOF)\n\
        ours, theirs = pty.openpty()\n\
        print(os.isatty(theirs), os.ttyname(theirs).startswith('/dev/pts/'))";
    let answer = run(&client, &session, "python", code)?;
    assert_eq!(answer["stdout"], "True True\nTrue True\n");
    // They are the cell's own, and end.
    let many = "import os\nopened = []\n\
        try:\n    while True: opened.append(os.openpty())\nexcept OSError as error: print(len(opened), error.errno)";
    let answer = client.execute(&session, "python", many)?;
    let said = answer["stdout"].as_str().unwrap_or_default().to_owned();
    ensure!(said.ends_with(" 28\n") && said.starts_with("6"), "64 or so, then ENOSPC: {answer:#}");
    let other = run(&client, &session, "bash", "ls /dev/pts | sort | tr '\\n' ' '")?;
    assert_eq!(other["stdout"], "ptmx ");
    client.close(&session)?;
    Ok(())
}

fn interfaces_and_services_are_listed(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    let code = "import os from 'node:os'; Object.keys(os.networkInterfaces()).join()";
    let answer = run(&client, &session, "javascript", code)?;
    assert_eq!(answer["results"][0]["mime"]["text/plain"], "'lo'", "{answer:#}");
    let code = "fs = require('node:fs'); fs.writeFileSync('a', 'x'.repeat(100000)); fs.copyFileSync('a', 'b'); \
        await fs.promises.copyFile('a', 'c'); fs.statSync('b').size + fs.statSync('c').size";
    let answer = run(&client, &session, "javascript", code)?;
    assert_eq!(answer["results"][0]["mime"]["text/plain"], "200000", "{answer:#}");
    let code = "import pandas, socket\n\
        print(socket.if_nameindex(), socket.getservbyname('https'))\n\
        print(len(pandas.DataFrame({'a': [1]}).style.to_html()) > 100)\n\
        s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); s.bind((0, 0))\n\
        import struct\n\
        # RTM_NEWLINK of a dummy interface; RTM_NEWADDR on lo.\n\
        for kind, body in ((16, struct.pack('BxHiII', 0, 0, 0, 1, 1)), (20, struct.pack('BBBBI', 2, 8, 0, 0, 1))):\n\
        \x20   s.send(struct.pack('IHHII', 16 + len(body), kind, 0x605, 1, 0) + body)\n\
        \x20   print(struct.unpack('i', s.recv(4096)[16:20])[0])\n\
        for protocol in (4, 9, 12, 15, 16):\n\
        \x20   try: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol); print('open', protocol)\n\
        \x20   except PermissionError: pass";
    let answer = run(&client, &session, "python", code)?;
    // Nothing is changed: EPERM.
    assert_eq!(answer["stdout"], "[(1, 'lo')] 443\nTrue\n-1\n-1\n", "{answer:#}");
    client.close(&session)?;
    Ok(())
}

fn processors_are_counted(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    let own = std::thread::available_parallelism()?.to_string();
    let here = run(&client, &session, "javascript", "import os from 'node:os'; os.cpus().length")?;
    assert_eq!(here["results"][0]["mime"]["text/plain"], own.as_str());
    let code = "node -p 'os.cpus().length'\n\
        echo \"import { cpus } from 'node:os'; console.log(cpus().length, cpus()[0].times.user)\" > a.mjs; node a.mjs\n\
        node -e 'new (require(\"worker_threads\").Worker)(\"console.log(require(`os`).cpus().length)\", {eval: true})'\n\
        python3 -c 'import os; print(os.cpu_count(), len(os.sched_getaffinity(0)))'";
    let answer = run(&client, &session, "bash", code)?;
    assert_eq!(answer["stdout"], format!("{own}\n{own} 0\n{own}\n{own} {own}\n"), "{answer:#}");
    client.close(&session)?;
    Ok(())
}

fn environments_are_made_and_programs_run_by_descriptor(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    let code = "python3 -m venv env && env/bin/python -c 'import sys; print(sys.prefix)' && env/bin/pip --version | cut -d' ' -f1";
    assert_eq!(run(&client, &session, "bash", code)?["stdout"], "/workspace/env\npip\n");
    let code = "import os\n\
        if os.fork() == 0:\n    os.execve(os.open('/usr/bin/echo', os.O_RDONLY), ['echo', 'by descriptor'], {})\n\
        os.wait()[1]";
    let answer = run(&client, &session, "python", code)?;
    assert_eq!(answer["results"][0]["mime"]["text/plain"], "0");
    client.close(&session)?;
    Ok(())
}

/// Typing in another's name, another line discipline, the console: refused to programs that made the terminal, too.
fn a_terminals_tricks_stay_refused(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = session(&client)?;
    let code = "import fcntl, os\nours, theirs = os.openpty()\n\
        for request in (0x5412, 0x5423, 0x541C, 0x541D):\n\
        \x20   for end in (ours, theirs):\n\
        \x20       try: fcntl.ioctl(end, request, b'x' * 8); print('done', hex(request))\n\
        \x20       except PermissionError: pass";
    assert_eq!(run(&client, &session, "python", code)?["stdout"], "");
    client.close(&session)?;
    Ok(())
}
