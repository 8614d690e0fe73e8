//! What all SVG elements of the page have in common: a name, a description, no needless attribute.

/// Attributes that say what holds without them; the page itself sets the font.
const NEEDLESS: [&str; 3] = [
    " opacity=\"1\"",
    " stroke-width=\"1\"",
    " font-family=\"sans-serif\"",
];

/// An SVG element with a name and a description for those who cannot see it.
pub(super) fn described(svg: &str, title: &str, description: &str) -> String {
    let mut svg = svg.to_owned();
    for attribute in NEEDLESS {
        // Quotes inside texts are escaped, so that only attributes are found.
        svg = svg.replace(attribute, "");
    }
    let (opening, rest) = svg.split_once('>').unwrap_or((svg.as_str(), ""));
    format!(
        "{opening} role=\"img\"><title>{}</title><desc>{}</desc>{rest}",
        escaped(title),
        escaped(description)
    )
}

/// A text as it stands between the tags of an element, or between double quotes in one.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_gets_its_name_and_loses_what_goes_without_saying() {
        let svg = "<svg width=\"1\">\n<line opacity=\"1\" x1=\"2\"/>\n</svg>";
        assert_eq!(
            described(svg, "a <b>", "c & \"d\""),
            "<svg width=\"1\" role=\"img\"><title>a &lt;b&gt;</title>\
             <desc>c &amp; &quot;d&quot;</desc>\n<line x1=\"2\"/>\n</svg>"
        );
    }
}
