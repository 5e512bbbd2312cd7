//! Pictures and PDF.

use crate::action::{Clip, ImageFormat, Target};
use crate::connection::CallError;
use crate::locate::Needs;
use crate::outcome::{Failure, MAX_PIXELS, Reply};
use crate::run::Step;
use base64::Engine;
use chromiumoxide_cdp::cdp::browser_protocol::page::{
    CaptureScreenshotFormat, CaptureScreenshotParams, GetLayoutMetricsParams, PrintToPdfParams, Viewport,
};
use chromiumoxide_types::Binary;

const JPEG_QUALITY: i64 = 80;

impl Step<'_> {
    pub(crate) async fn screenshot(
        &mut self,
        format: ImageFormat,
        full_page: bool,
        target: Option<&Target>,
        clip: Option<Clip>,
    ) -> Result<Reply, Failure> {
        let area = match (full_page, target, clip) {
            (false, None, None) => None,
            (true, None, None) => Some(self.whole_page().await?),
            (false, Some(target), None) => Some(self.area_of(target).await?),
            (false, None, Some(clip)) => Some(clip),
            _ => {
                return Err(Failure::Limit(
                    "a screenshot takes one of full_page, target and clip".to_owned(),
                ));
            }
        };
        let beyond = area.is_some();
        let window = self.window().await?;
        let Clip { width, height, .. } = area.unwrap_or(window);
        if !(width >= 1.0 && height >= 1.0 && width * height <= MAX_PIXELS) {
            let limit = MAX_PIXELS / 1e6;
            return Err(Failure::Limit(format!(
                "a picture has 1 to {limit} million pixels, not {width} × {height}"
            )));
        }
        let command = CaptureScreenshotParams {
            format: Some(match format {
                ImageFormat::Png => CaptureScreenshotFormat::Png,
                ImageFormat::Jpeg => CaptureScreenshotFormat::Jpeg,
            }),
            quality: (format == ImageFormat::Jpeg).then_some(JPEG_QUALITY),
            clip: area.map(|Clip { x, y, width, height }| Viewport { x, y, width, height, scale: 1.0 }),
            capture_beyond_viewport: Some(beyond),
            ..CaptureScreenshotParams::default()
        };
        let bytes = decode(&self.call(&command).await?.data)?;
        Ok(Reply::Image { bytes, width: pixels(width), height: pixels(height) })
    }

    pub(crate) async fn pdf(&mut self) -> Result<Reply, Failure> {
        let command = PrintToPdfParams { print_background: Some(true), ..PrintToPdfParams::default() };
        Ok(Reply::Pdf(decode(&self.call(&command).await?.data)?))
    }

    /// The viewport: its place in the page, and its size.
    pub(crate) async fn window(&self) -> Result<Clip, Failure> {
        let view = self.call(&GetLayoutMetricsParams {}).await?.css_layout_viewport;
        #[expect(clippy::cast_precision_loss, reason = "pixels of a page stay far below 2^52")]
        let [x, y, width, height] =
            [view.page_x, view.page_y, view.client_width, view.client_height].map(|n| n as f64);
        Ok(Clip { x, y, width, height })
    }

    async fn whole_page(&self) -> Result<Clip, Failure> {
        let size = self.call(&GetLayoutMetricsParams {}).await?.css_content_size;
        Ok(Clip { x: 0.0, y: 0.0, width: size.width, height: size.height })
    }

    async fn area_of(&mut self, target: &Target) -> Result<Clip, Failure> {
        if matches!(target, Target::Point { .. }) {
            return Err(Failure::Limit("a point has no area; use clip".to_owned()));
        }
        let found = self.locate(target, Needs::SHOWN).await?;
        let window = self.window().await?;
        // On whole pixels, or the picture is blurred.
        let (left, top) = ((window.x + found.left).floor(), (window.y + found.top).floor());
        let right = (window.x + found.left + found.width).ceil();
        let bottom = (window.y + found.top + found.height).ceil();
        Ok(Clip { x: left, y: top, width: right - left, height: bottom - top })
    }
}

fn decode(data: &Binary) -> Result<Vec<u8>, Failure> {
    let text: &str = data.as_ref();
    let engine = base64::engine::general_purpose::STANDARD;
    engine.decode(text).map_err(|error| CallError::Malformed(error.to_string()).into())
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and MAX_PIXELS")]
fn pixels(length: f64) -> u32 {
    length.ceil() as u32
}
