//! Tables for the terminal: columns aligned by spaces, two between them, so that people and `awk` can read them.

/// Lines of cells as text; the first line is the head. Columns whose cells below the head all begin like a number stand at
/// the right. An empty cell is written as `-`, a space inside a cell stays.
pub fn aligned(lines: &[Vec<String>]) -> String {
    let count = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count().max(1)).max().unwrap_or(0);
    let is_number = |column: usize| lines.iter().skip(1).filter_map(|line| line.get(column)).all(|cell| starts_like_a_number(cell));
    let columns: Vec<(usize, bool)> = (0..count).map(|column| (width(column), is_number(column))).collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&columns).map(|(cell, &(width, right))| {
            let cell = if cell.is_empty() { "-" } else { cell };
            let blank = " ".repeat(width - cell.chars().count());
            if right { blank + cell } else { cell.to_owned() + &blank }
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn starts_like_a_number(cell: &str) -> bool {
    cell.is_empty() || cell == "-" || cell.trim_start_matches(['+', '-', '<', ' ']).starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_left_and_numbers_right() {
        let lines = [["name", "value"], ["é", "-1.5"], ["longer", "20.25"], ["x", ""]].map(|line| line.map(str::to_owned).to_vec());
        assert_eq!(aligned(&lines), "name    value\né        -1.5\nlonger  20.25\nx           -\n");
        assert_eq!(aligned(&[]), "");
    }
}
