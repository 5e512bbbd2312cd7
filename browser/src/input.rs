//! Mouse, keyboard and fields.

use crate::action::{Button, Chord, FieldValue, Modifier, Scroll, Selection, Target};
use crate::connection::CallError;
use crate::keyboard::{Key, key};
use crate::locate::Needs;
use crate::outcome::{Failure, Reply};
use crate::run::Step;
use chromiumoxide_cdp::cdp::browser_protocol::input::{
    DispatchKeyEventParams, DispatchKeyEventType, DispatchMouseEventParams, DispatchMouseEventType,
    InsertTextParams, MouseButton,
};
use serde_json::json;
use std::time::Duration;

/// Steps of a drag: pages look at the way, not only at the ends.
const DRAG_STEPS: u32 = 5;

impl Step<'_> {
    pub(crate) async fn click(
        &mut self,
        target: &Target,
        button: Button,
        modifiers: &[Modifier],
        times: i64,
    ) -> Result<Reply, Failure> {
        let at = self.point(target, Needs::CLICK).await?;
        self.mouse(DispatchMouseEventType::MouseMoved, at, None, modifiers, 0).await?;
        for count in 1..=times {
            self.mouse(DispatchMouseEventType::MousePressed, at, Some(button), modifiers, count).await?;
            let released =
                self.mouse(DispatchMouseEventType::MouseReleased, at, Some(button), modifiers, count).await;
            match released {
                // A button that closes its own window.
                Err(Failure::Call(CallError::Detached)) => return Ok(Reply::Nothing),
                other => other?,
            }
        }
        self.settle().await;
        Ok(Reply::Nothing)
    }

    pub(crate) async fn hover(&mut self, target: &Target, modifiers: &[Modifier]) -> Result<Reply, Failure> {
        let at = self.point(target, Needs::HOVER).await?;
        self.mouse(DispatchMouseEventType::MouseMoved, at, None, modifiers, 0).await?;
        self.settle().await;
        Ok(Reply::Nothing)
    }

    pub(crate) async fn drag(&mut self, from: &Target, to: &Target) -> Result<Reply, Failure> {
        let start = self.point(from, Needs::HOVER).await?;
        self.mouse(DispatchMouseEventType::MouseMoved, start, None, &[], 0).await?;
        self.mouse(DispatchMouseEventType::MousePressed, start, Some(Button::Left), &[], 1).await?;
        let end = self.point(to, Needs::HOVER).await?;
        for step in 1..=DRAG_STEPS {
            let part = f64::from(step) / f64::from(DRAG_STEPS);
            let at = (start.0 + (end.0 - start.0) * part, start.1 + (end.1 - start.1) * part);
            self.mouse(DispatchMouseEventType::MouseMoved, at, Some(Button::Left), &[], 0).await?;
        }
        self.mouse(DispatchMouseEventType::MouseReleased, end, Some(Button::Left), &[], 1).await?;
        self.settle().await;
        Ok(Reply::Nothing)
    }

    pub(crate) async fn scroll(&mut self, scroll: &Scroll) -> Result<Reply, Failure> {
        match scroll {
            // Every search that needs a stable element scrolls it into view.
            Scroll::To(target) => drop(self.point(target, Needs::SHOWN).await?),
            Scroll::By { dx, dy } => {
                let window = self.window().await?;
                let wheel = DispatchMouseEventParams {
                    delta_x: Some(*dx),
                    delta_y: Some(*dy),
                    ..DispatchMouseEventParams::new(
                        DispatchMouseEventType::MouseWheel,
                        window.width / 2.0,
                        window.height / 2.0,
                    )
                };
                self.tell(&wheel).await?;
            }
        }
        self.settle().await;
        Ok(Reply::Nothing)
    }

    pub(crate) async fn press(&mut self, chord: &Chord) -> Result<Reply, Failure> {
        let Chord { modifiers, key: name } = chord;
        let mut held = 0;
        for modifier in modifiers {
            held |= bit(*modifier);
            self.key_event(DispatchKeyEventType::RawKeyDown, Key::of(*modifier), held).await?;
        }
        let upper = name.to_ascii_uppercase();
        let shifted = modifiers.contains(&Modifier::Shift) && name.len() == 1;
        if let Some(key) = key(if shifted { &upper } else { name }) {
            self.stroke(key, held).await?;
        }
        for modifier in modifiers.iter().rev() {
            held &= !bit(*modifier);
            self.key_event(DispatchKeyEventType::KeyUp, Key::of(*modifier), held).await?;
        }
        self.settle().await;
        Ok(Reply::Nothing)
    }

    pub(crate) async fn type_text(
        &mut self,
        target: Option<&Target>,
        text: &str,
        delay_ms: u32,
    ) -> Result<Reply, Failure> {
        if let Some(target) = target {
            let found = self.locate(target, Needs::FOCUS).await?;
            self.have::<()>(&found.place, "anchorhold.focus()").await?;
        }
        let mut buffer = [0; 4];
        for character in text.chars() {
            let name = if character == '\n' { "Enter" } else { &*character.encode_utf8(&mut buffer) };
            match key(name) {
                Some(key) => self.stroke(key, 0).await?,
                None => {
                    self.tell(&InsertTextParams::new(name)).await?;
                }
            }
            if delay_ms > 0 {
                self.pause(Duration::from_millis(delay_ms.into())).await?;
            }
        }
        self.settle().await;
        Ok(Reply::Nothing)
    }

    pub(crate) async fn fill(&mut self, target: &Target, value: &FieldValue) -> Result<Reply, Failure> {
        let found = self.locate(target, Needs::FILL).await?;
        let wanted = match value {
            FieldValue::Text(text) => json!(text),
            FieldValue::On(on) => json!(on),
        };
        let next: String = self.have(&found.place, &format!("anchorhold.fill({wanted})")).await?;
        match (next.as_str(), value) {
            ("done", _) => {}
            ("click", FieldValue::On(on)) => return self.check(target, *on).await,
            ("insert", FieldValue::Text(text)) if text.is_empty() => {
                if let Some(delete) = key("Delete") {
                    self.stroke(delete, 0).await?;
                }
            }
            ("insert", FieldValue::Text(text)) => {
                self.tell(&InsertTextParams::new(text)).await?;
            }
            _ => return Err(Failure::Unfit { target: target.to_string(), why: next }),
        }
        self.settle().await;
        Ok(Reply::Nothing)
    }

    pub(crate) async fn select(&mut self, selection: &Selection) -> Result<Reply, Failure> {
        let Selection { target, by, wanted } = selection;
        let found = self.locate(target, Needs::SELECT).await?;
        let call = format!("anchorhold.select({}, {})", json!(wanted), json!(by));
        let said: String = self.have(&found.place, &call).await?;
        if said != "done" {
            return Err(Failure::Unfit { target: target.to_string(), why: said });
        }
        self.settle().await;
        Ok(Reply::Nothing)
    }

    pub(crate) async fn check(&mut self, target: &Target, wanted: bool) -> Result<Reply, Failure> {
        let found = self.locate(target, Needs::CHECK).await?;
        let said: String = self.ask(&found.place, &format!("anchorhold.check({wanted})")).await?;
        if said == "done" {
            return Ok(Reply::Nothing);
        }
        self.click(&Target::Point { x: found.x, y: found.y }, Button::Left, &[], 1).await?;
        let said: String = self.ask(&found.place, &format!("anchorhold.check({wanted})")).await?;
        if said == "done" {
            return Ok(Reply::Nothing);
        }
        Err(Failure::Unfit {
            target: target.to_string(),
            why: "did not change when it was clicked".to_owned(),
        })
    }

    async fn point(&mut self, target: &Target, needs: Needs) -> Result<(f64, f64), Failure> {
        if let Target::Point { x, y } = target {
            return Ok((*x, *y));
        }
        let found = self.locate(target, needs).await?;
        Ok((found.x, found.y))
    }

    async fn mouse(
        &mut self,
        kind: DispatchMouseEventType,
        (x, y): (f64, f64),
        button: Option<Button>,
        modifiers: &[Modifier],
        count: i64,
    ) -> Result<(), Failure> {
        let (button, buttons) = match button {
            None => (MouseButton::None, 0),
            Some(Button::Left) => (MouseButton::Left, 1),
            Some(Button::Right) => (MouseButton::Right, 2),
            Some(Button::Middle) => (MouseButton::Middle, 4),
        };
        let held = if kind == DispatchMouseEventType::MouseReleased { 0 } else { buttons };
        let event = DispatchMouseEventParams {
            button: Some(button),
            buttons: Some(held),
            click_count: Some(count),
            modifiers: Some(modifiers.iter().fold(0, |held, modifier| held | bit(*modifier))),
            ..DispatchMouseEventParams::new(kind, x, y)
        };
        self.tell(&event).await.map(drop)
    }

    async fn stroke(&mut self, key: Key<'_>, held: i64) -> Result<(), Failure> {
        // With Control, Alt or Meta a key is a command and writes nothing.
        let writes = !key.text.is_empty() && held & !bit(Modifier::Shift) == 0;
        let down = if writes { DispatchKeyEventType::KeyDown } else { DispatchKeyEventType::RawKeyDown };
        self.key_event(down, key, held).await?;
        self.key_event(DispatchKeyEventType::KeyUp, key, held).await
    }

    async fn key_event(
        &mut self,
        kind: DispatchKeyEventType,
        key: Key<'_>,
        held: i64,
    ) -> Result<(), Failure> {
        let text = (kind == DispatchKeyEventType::KeyDown).then(|| key.text.to_owned());
        let event = DispatchKeyEventParams {
            modifiers: Some(held),
            unmodified_text: text.clone(),
            text,
            code: Some(key.code()),
            key: Some(key.key.to_owned()),
            windows_virtual_key_code: Some(key.number.into()),
            ..DispatchKeyEventParams::new(kind)
        };
        self.tell(&event).await.map(drop)
    }
}

fn bit(modifier: Modifier) -> i64 {
    match modifier {
        Modifier::Alt => 1,
        Modifier::Control => 2,
        Modifier::Meta => 4,
        Modifier::Shift => 8,
    }
}
