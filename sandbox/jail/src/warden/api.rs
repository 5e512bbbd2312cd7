//! The conversation with the API.

use super::cell::{Cell, State};
use super::controller::Controller;
use super::watch::Source;
use super::{Timer, Warden, WardenError, log};
use crate::control::{Boottime, Cause, CellInfo, FromWarden, Image, ToWarden, Tombstone, Welcome};
use crate::packet::PacketError;
use std::os::fd::{AsFd, OwnedFd};

impl Warden {
    pub(super) fn accept(&mut self) -> Result<(), WardenError> {
        let flags = rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK;
        let socket = match rustix::net::accept_with(&self.listener, flags) {
            Ok(socket) => socket,
            Err(_went_away) => return Ok(()),
        };
        // A controller that was killed may have left its end unread: notice before the next one is refused.
        self.hear_controller();
        let busy = self.controller.is_some();
        match Controller::admit(socket, self.config.arguments.client_uid) {
            Err(error) => log(&format!("refused a connection: {error}")),
            Ok(mut controller) if busy => {
                let reason = "the warden has a controller".to_owned();
                // It is refused whether it hears so or not.
                let _unheard = controller.send(&FromWarden::Rejected { reason }, vec![]);
            }
            Ok(controller) => {
                self.watch.add(controller.as_fd(), Source::Controller)?;
                self.controller = Some(controller);
                self.timers.retain(|(_, timer)| *timer != Timer::Orphans);
            }
        }
        Ok(())
    }

    pub(super) fn hear_controller(&mut self) {
        loop {
            let Some(controller) = &mut self.controller else { return };
            match controller.receive() {
                Ok(None) => return,
                Ok(Some(message)) => self.obey(message),
                Err(error) => return self.lose_controller(&error),
            }
        }
    }

    pub(super) fn lose_controller(&mut self, error: &PacketError) {
        if let Some(controller) = self.controller.take() {
            if controller.is_greeted() {
                log(&format!("the API is gone: {error}"));
            }
            self.watch.forget(Source::Controller);
            self.waiting.clear();
            // The next one knows nothing of what this one froze, and asks every cell what it knows.
            self.thaw_all();
            self.orphans_begin();
        }
    }

    pub(super) fn orphans_begin(&mut self) {
        let grace = self.config.warden.orphan_grace_seconds.saturating_mul(1_000_000);
        self.timers.insert((Boottime::now().plus_us(grace), Timer::Orphans));
    }

    pub(super) fn say(&mut self, message: &FromWarden, descriptors: Vec<OwnedFd>) {
        let Some(controller) = &mut self.controller else { return };
        if let Err(error) = controller.send(message, descriptors) {
            self.lose_controller(&error);
        }
    }

    pub(super) fn obey(&mut self, message: ToWarden) {
        match message {
            ToWarden::Hello { .. } => self.welcome(),
            ToWarden::Take(take) => self.take(take),
            ToWarden::Arm { cell, execution, at } => self.arm(cell, Some((at, execution))),
            ToWarden::Disarm { cell } => self.arm(cell, None),
            ToWarden::Kill { cell } => self.kill(cell, Cause::Killed),
            ToWarden::Freeze { cell, frozen } => self.freeze(cell, frozen),
            ToWarden::Renew { session, expires_at } => self.renew(session, expires_at),
            ToWarden::Reroute { session, network } => {
                if let Err(error) = self.reroute(session, network) {
                    log(&format!("egress cannot be watched: {error}"));
                }
            }
            ToWarden::Socket { tag, session } => {
                let sockets = self.sockets_of(session);
                self.say(&FromWarden::Socket { tag }, sockets);
            }
            ToWarden::EndSession { session } if self.sessions.contains_key(&session) => {
                self.end_session(session, Cause::Killed);
            }
            ToWarden::EndSession { session } => self.say(&FromWarden::SessionEnded { session }, vec![]),
            ToWarden::Acknowledge { cell } => {
                self.tombstones.remove(&cell);
            }
            ToWarden::Shutdown => self.shut_down(),
        }
    }

    pub(super) fn welcome(&mut self) {
        let live: Vec<CellInfo> = self
            .cells
            .values()
            .filter(|c| c.state == State::Live && c.cause.is_none())
            .filter_map(Cell::info)
            .collect();
        let mut images: Vec<Image> = self.images.values().map(|i| i.image.clone()).collect();
        images.sort_by(|a, b| a.name.cmp(&b.name));
        let tombstones: Vec<Tombstone> = self.tombstones.values().cloned().collect();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let welcome = Welcome {
            life: self.life,
            images,
            cells: count(live.len()),
            tombstones: count(tombstones.len()),
        };
        self.say(&FromWarden::Welcome(welcome), vec![]);
        for info in live {
            match self.cells[&info.cell].descriptors(&self.outlets) {
                Ok(descriptors) => self.say(&FromWarden::Cell(info), descriptors),
                Err(error) => log(&format!("cannot hand over a cell: {error}")),
            }
        }
        for tombstone in tombstones {
            self.say(&FromWarden::CellEnded(tombstone), vec![]);
        }
    }

    pub(super) fn shut_down(&mut self) {
        self.stopping = true;
        for session in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.end_session(session, Cause::WardenDied);
        }
    }
}
