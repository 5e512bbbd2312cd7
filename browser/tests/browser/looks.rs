use crate::chromium::Chromium;
use anchorhold_browser::{Failure, Reply};
use base64::Engine;
use serde_json::{Value, json};

/// A picture's size, and its pixels at some points, as Chromium's decoder (in another tab) sees them.
async fn pixels(chromium: &mut Chromium, picture: &[u8], mime: &str, points: &[(u32, u32)]) -> Value {
    let data = base64::engine::general_purpose::STANDARD.encode(picture);
    let script = format!(
        "const i = new Image(); i.src = 'data:{mime};base64,{data}'; await i.decode();
         const c = new OffscreenCanvas(i.width, i.height).getContext('2d'); c.drawImage(i, 0, 0);
         ({{size: [i.width, i.height], colours: {}.map(([x, y]) => [...c.getImageData(x, y, 1, 1).data].slice(0, 3))}})",
        json!(points)
    );
    chromium.one(json!({"type": "tabs", "op": "new"})).await;
    let seen = chromium.js(&script).await;
    let Reply::Tabs(tabs) = chromium.one(json!({"type": "tabs", "op": "list"})).await else { panic!() };
    let own = tabs.iter().find(|tab| tab.selected).unwrap().id;
    chromium.one(json!({"type": "tabs", "op": "close", "id": own})).await;
    seen
}

async fn picture(chromium: &mut Chromium, options: Value) -> (Vec<u8>, [u32; 2]) {
    let mut action = options;
    action["type"] = json!("screenshot");
    match chromium.one(action).await {
        Reply::Image { bytes, width, height } => (bytes, [width, height]),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn pictures_show_the_page() {
    let mut chromium = Chromium::start().await;
    chromium.open("/colors").await;
    let (red, green, blue, white) =
        (json!([255, 0, 0]), json!([0, 255, 0]), json!([0, 0, 255]), json!([255, 255, 255]));

    let (png, size) = picture(&mut chromium, json!({})).await;
    let seen = pixels(&mut chromium, &png, "image/png", &[(50, 50), (150, 50)]).await;
    assert_eq!(seen, json!({"size": size, "colours": [red, white]}));

    let (png, size) = picture(&mut chromium, json!({"full_page": true})).await;
    assert_eq!(size[1], 3000);
    let seen =
        pixels(&mut chromium, &png, "image/png", &[(50, 50), (225, 2020), (10, 2999), (10, 2940)]).await;
    assert_eq!(seen, json!({"size": size, "colours": [red, green, blue, white]}));

    let (png, size) = picture(&mut chromium, json!({"target": {"selector": "#green"}})).await;
    let seen = pixels(&mut chromium, &png, "image/png", &[(0, 0), (49, 39)]).await;
    assert_eq!((seen, size), (json!({"size": [50, 40], "colours": [green, green]}), [50, 40]));

    let clip = json!({"clip": {"x": 90, "y": 90, "width": 20, "height": 20}, "format": "jpeg"});
    let (jpeg, size) = picture(&mut chromium, clip).await;
    assert!(jpeg.starts_with(b"\xff\xd8"));
    assert_eq!(size, [20, 20]);
    let seen = pixels(&mut chromium, &jpeg, "image/jpeg", &[(2, 2), (18, 18)]).await;
    assert!(
        seen["colours"][0][0].as_u64() > Some(240) && seen["colours"][0][1].as_u64() < Some(15),
        "{seen}"
    );
    assert!(seen["colours"][1][1].as_u64() > Some(240), "{seen}");
    chromium.end().await;
}

#[tokio::test]
async fn pictures_have_a_limit_and_pdfs_are_pdfs() {
    let mut chromium = Chromium::start().await;
    chromium.open("/colors").await;
    chromium.js("document.body.style.height = '200000px'; 0").await;
    for action in [
        json!({"type": "screenshot", "full_page": true}),
        json!({"type": "screenshot", "clip": {"x": 0, "y": 0, "width": 0, "height": 5}}),
        json!({"type": "screenshot", "full_page": true, "target": {"selector": "#green"}}),
        json!({"type": "screenshot", "target": {"x": 1, "y": 1}}),
    ] {
        assert!(matches!(chromium.failed(10.0, action).await, Failure::Limit(_)));
    }
    chromium.open("/form").await;
    let Reply::Pdf(pdf) = chromium.one(json!({"type": "pdf"})).await else { panic!() };
    assert!(pdf.starts_with(b"%PDF-1.") && pdf.trim_ascii_end().ends_with(b"%%EOF"));
    chromium.end().await;
}
