//! Puts the page together: template, style, program and data in one file.

use super::data::Data;

const TEMPLATE: &str = include_str!("assets/page.html");
const STYLE: &str = include_str!("assets/style.css");
const PROGRAM: &str = include_str!("assets/page.js");

/// The page.
pub fn render(data: &Data) -> String {
    // A number or text of ours always has a JSON form. What a recording says must not end the element that it stands in.
    let json = serde_json::to_string(data).unwrap_or_default().replace('<', "\\u003c").replace("\u{2028}", "\\u2028");
    let mut page = String::with_capacity(TEMPLATE.len() + STYLE.len() + PROGRAM.len() + json.len());
    let mut rest = TEMPLATE;
    // In one pass: what is put in is not looked at again.
    while let Some((before, after)) = rest.split_once("{{") {
        page.push_str(before);
        let Some((name, after)) = after.split_once("}}") else { break };
        page.push_str(match name {
            "style" => STYLE,
            "program" => PROGRAM,
            "data" => &json,
            _ => "",
        });
        rest = after;
    }
    page.push_str(rest);
    page
}
