//! Figures as inline SVG. Text and axes take the page's colour, so that they read on light and dark ground; every series
//! has a shape besides its colour.

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use crate::error::{Error, Result};

/// Colours that differ for the colour-blind and read on white and on near-black (after Okabe and Ito).
const COLOURS: [RGBColor; 8] = [
    RGBColor(0x2B, 0x7B, 0xBA),
    RGBColor(0xD5, 0x5E, 0x00),
    RGBColor(0x00, 0x9E, 0x73),
    RGBColor(0xC4, 0x5F, 0x9A),
    RGBColor(0xB5, 0x8A, 0x00),
    RGBColor(0x4A, 0xA8, 0xD8),
    RGBColor(0x8C, 0x6B, 0xB1),
    RGBColor(0x80, 0x80, 0x80),
];

/// Axis lines and text; replaced by the page's text colour.
const INK: RGBColor = RGBColor(1, 2, 3);
const FONT: &str = "sans-serif";

type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// A value with its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bar {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

/// A named set of points.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// Titles of a figure.
#[derive(Debug, Clone, Copy)]
pub struct Axes<'a> {
    pub x: &'a str,
    pub y: &'a str,
    /// What the figure shows, for readers who do not see it.
    pub description: &'a str,
}

/// Colour of the `i`-th series, for legends outside the figures.
pub fn colour(i: usize) -> String {
    let RGBColor(r, g, b) = COLOURS[i % COLOURS.len()];
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// Curves over a logarithmic y axis (learning curves).
pub fn curves(series: &[Series], axes: Axes) -> Result<String> {
    let logarithmic: Vec<Series> = series
        .iter()
        .map(|series| Series {
            name: series.name.clone(),
            points: series.points.iter().filter(|(_, y)| *y > 0.0).map(|&(x, y)| (x, y.log10())).collect(),
        })
        .collect();
    let Some([x, y]) = ranges(logarithmic.iter().flat_map(|series| &series.points)) else {
        return Err(Error::Invalid("a curve needs points with positive values".into()));
    };
    svg((720, 360), axes, |canvas| {
        let mut chart =
            ChartBuilder::on(canvas).margin(10).x_label_area_size(42).y_label_area_size(64).build_cartesian_2d(x.clone(), y.clone())?;
        mesh(&mut chart, axes, &|x| format!("{x:.0}"), &|y| format_power(*y))?;
        for (i, series) in logarithmic.iter().enumerate() {
            let style = COLOURS[i % COLOURS.len()].stroke_width(2);
            chart.draw_series(LineSeries::new(series.points.iter().copied(), style))?;
            if let Some(&end) = series.points.last() {
                markers(&mut chart, i, std::iter::once(end), 4)?;
            }
        }
        Ok(())
    })
}

/// Scores over sizes.
#[derive(Debug, Clone, PartialEq)]
pub struct SizeSeries {
    pub name: String,
    /// Size, score with its interval, name.
    pub points: Vec<(f64, Bar, String)>,
    /// A line fitted over the decimal logarithm of the size: height at size 1 and slope.
    pub line: Option<(f64, f64)>,
}

/// Points with intervals and their names, over the decimal logarithm of x (score against size).
pub fn sizes(series: &[SizeSeries], axes: Axes) -> Result<String> {
    let corners = |(x, bar, _): &(f64, Bar, String)| {
        let bound = |value: f64| if value.is_finite() { value } else { bar.value };
        [(x.log10(), bound(bar.low)), (x.log10(), bound(bar.high)), (x.log10(), 0.0)]
    };
    let on_line = |series: &SizeSeries| -> Vec<(f64, f64)> {
        let Some((height, slope)) = series.line else { return Vec::new() };
        series.points.iter().map(|(x, _, _)| (x.log10(), height + slope * x.log10())).collect()
    };
    let mut points: Vec<(f64, f64)> = series.iter().flat_map(|series| series.points.iter().flat_map(corners)).collect();
    points.extend(series.iter().flat_map(on_line));
    let Some([x, y]) = ranges(points.iter()) else {
        return Err(Error::Invalid("a figure of sizes needs points".into()));
    };
    // Room for the names of the outermost points.
    let x = x.start - 0.08 * (x.end - x.start)..x.end + 0.08 * (x.end - x.start);
    svg((720, 400), axes, |canvas| {
        let mut chart =
            ChartBuilder::on(canvas).margin(10).x_label_area_size(42).y_label_area_size(64).build_cartesian_2d(x.clone(), y.clone())?;
        mesh(&mut chart, axes, &|x| super::table::format_count(two_digits(10f64.powf(*x))), &|y| format!("{y:.0}"))?;
        for (i, SizeSeries { points, line, .. }) in series.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            if let Some((height, slope)) = *line {
                // Broad and pale, from edge to edge of the points, so that nobody reads it as measured.
                let sizes = points.iter().map(|(x, _, _)| x.log10());
                let (low, high) = sizes.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
                let ends = [low, high].map(|x| (x, height + slope * x));
                chart.draw_series([PathElement::new(ends.to_vec(), colour.mix(0.25).stroke_width(6))])?;
            }
            let line = points.iter().map(|(x, bar, _)| (x.log10(), bar.value));
            chart.draw_series(LineSeries::new(line, colour.mix(0.5).stroke_width(1)))?;
            for (x, bar, name) in points {
                // Series are moved apart by a pixel or two, so that their intervals do not hide one another.
                let x = x.log10() + (i as f64 - (series.len() as f64 - 1.0) / 2.0) * 0.006;
                if bar.low.is_finite() && bar.high.is_finite() {
                    chart.draw_series([PathElement::new(vec![(x, bar.low), (x, bar.high)], colour.stroke_width(2))])?;
                }
                markers(&mut chart, i, std::iter::once((x, bar.value)), 5)?;
                if i == 0 {
                    let style = (FONT, 14).into_font().color(&INK);
                    chart.draw_series([EmptyElement::at((x, bar.value)) + Text::new(name.clone(), (-8, -20), style)])?;
                }
            }
        }
        Ok(())
    })
}

/// Groups of bars with intervals; one bar per series in every group, absent ones left out.
pub fn bars(groups: &[(String, Vec<Option<Bar>>)], axes: Axes) -> Result<String> {
    let Some(width) = groups.first().map(|(_, bars)| bars.len()).filter(|&n| n > 0) else {
        return Err(Error::Invalid("a bar chart needs groups and series".into()));
    };
    let top = groups.iter().flat_map(|(_, bars)| bars.iter().flatten()).map(|bar| if bar.high.is_finite() { bar.high } else { bar.value });
    let top = top.fold(0.0f64, f64::max).max(1e-9) * 1.05;
    let size = (720u32.max(60 + 16 * (groups.len() * (width + 2)) as u32), 340);
    svg(size, axes, |canvas| {
        let (x, y) = (0.0..groups.len() as f64, 0.0..top);
        let mut chart = ChartBuilder::on(canvas).margin(10).x_label_area_size(42).y_label_area_size(64).build_cartesian_2d(x, y)?;
        // Labels stand under the middle of a group; the mesh itself would put them at its edge.
        mesh(&mut chart, axes, &|_| String::new(), &|y| format!("{y:.0}"))?;
        let step = 0.9 / width as f64;
        for (g, (name, bars)) in groups.iter().enumerate() {
            for (i, bar) in bars.iter().enumerate().filter_map(|(i, bar)| bar.map(|bar| (i, bar))) {
                let left = g as f64 + 0.05 + step * i as f64;
                let colour = COLOURS[i % COLOURS.len()];
                chart.draw_series([Rectangle::new([(left, 0.0), (left + 0.85 * step, bar.value)], colour.filled())])?;
                if bar.low.is_finite() && bar.high.is_finite() {
                    let middle = left + 0.425 * step;
                    chart.draw_series([PathElement::new(vec![(middle, bar.low.max(0.0)), (middle, bar.high)], INK.stroke_width(1))])?;
                }
            }
            let style = (FONT, 12).into_font().color(&INK).pos(plotters::style::text_anchor::Pos::new(
                plotters::style::text_anchor::HPos::Center,
                plotters::style::text_anchor::VPos::Top,
            ));
            let label = Text::new(name.clone(), (0, 6), style);
            chart.plotting_area().draw(&(EmptyElement::at((g as f64 + 0.5, 0.0)) + label))?;
        }
        Ok(())
    })
}

/// A scatter plot without axis numbers (t-SNE: distances have no unit).
pub fn scatter(series: &[Series], axes: Axes) -> Result<String> {
    let Some([x, y]) = ranges(series.iter().flat_map(|series| &series.points)) else {
        return Err(Error::Invalid("a scatter plot needs points".into()));
    };
    svg((720, 540), axes, |canvas| {
        let mut chart = ChartBuilder::on(canvas).margin(10).build_cartesian_2d(x.clone(), y.clone())?;
        for (i, series) in series.iter().enumerate() {
            markers(&mut chart, i, series.points.iter().copied(), 3)?;
        }
        Ok(())
    })
}

/// A legend of the series as HTML: shape, colour and name.
pub fn legend<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let items: String = names
        .enumerate()
        .map(|(i, name)| {
            let shape = ["●", "▲", "■", "✚"][i % 4];
            format!("<li><span aria-hidden=\"true\" style=\"color:{}\">{shape}</span> {}</li>", colour(i), super::table::escape(name))
        })
        .collect();
    format!("<ul class=\"legend\">{items}</ul>")
}

type Failure = DrawingAreaErrorKind<std::io::Error>;

/// Draws on an SVG of `size` pixels and makes it scale with the page.
fn svg(size: (u32, u32), axes: Axes, draw: impl FnOnce(&Canvas) -> std::result::Result<(), Failure>) -> Result<String> {
    let mut markup = String::new();
    {
        let canvas = SVGBackend::with_string(&mut markup, size).into_drawing_area();
        let failed = |error: Failure| Error::Invalid(format!("figure `{}` could not be drawn: {error}", axes.description));
        draw(&canvas).map_err(failed)?;
        canvas.present().map_err(failed)?;
    }
    let label = super::table::escape(axes.description);
    let head = format!("<svg role=\"img\" aria-label=\"{label}\" viewBox=\"0 0 {} {}\"", size.0, size.1);
    let Some(start) = markup.find("viewBox") else { return Err(Error::Invalid("the SVG backend wrote no view box".into())) };
    let rest = markup[start..].split_once('>').map_or("", |(_, rest)| rest);
    Ok(format!("{head}>{}", rest.replace("#010203", "currentColor")))
}

fn mesh(chart: &mut Chart, axes: Axes, x: &dyn Fn(&f64) -> String, y: &dyn Fn(&f64) -> String) -> std::result::Result<(), Failure> {
    let label = (FONT, 14).into_font().color(&INK);
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(128, 128, 128).mix(0.25))
        .axis_style(INK.mix(0.6))
        .label_style(label.clone())
        .axis_desc_style(label)
        .x_desc(axes.x)
        .y_desc(axes.y)
        .x_label_formatter(x)
        .y_label_formatter(y)
        .draw()
}

/// Draws the shape of the `series`-th series at every point.
fn markers(chart: &mut Chart, series: usize, points: impl Iterator<Item = (f64, f64)>, size: i32) -> std::result::Result<(), Failure> {
    let colour = COLOURS[series % COLOURS.len()];
    let style = colour.mix(0.85).filled();
    match series % 4 {
        0 => chart.draw_series(points.map(|at| Circle::new(at, size, style))).map(drop),
        1 => chart.draw_series(points.map(|at| TriangleMarker::new(at, size + 1, style))).map(drop),
        2 => {
            let square = || Rectangle::new([(1 - size, 1 - size), (size - 1, size - 1)], style);
            chart.draw_series(points.map(|at| EmptyElement::at(at) + square())).map(drop)
        }
        _ => chart.draw_series(points.map(|at| Cross::new(at, size, colour.stroke_width(2)))).map(drop),
    }
}

/// The extent of finite points with a twentieth of margin; `None` without points.
fn ranges<'a>(points: impl Iterator<Item = &'a (f64, f64)>) -> Option<[std::ops::Range<f64>; 2]> {
    let mut bounds: Option<[f64; 4]> = None;
    for &(x, y) in points.filter(|(x, y)| x.is_finite() && y.is_finite()) {
        let [x0, x1, y0, y1] = bounds.unwrap_or([x, x, y, y]);
        bounds = Some([x0.min(x), x1.max(x), y0.min(y), y1.max(y)]);
    }
    let [x0, x1, y0, y1] = bounds?;
    let widen = |low: f64, high: f64| {
        let margin = if high > low { 0.05 * (high - low) } else { 0.5 };
        low - margin..high + margin
    };
    Some([widen(x0, x1), widen(y0, y1)])
}

/// The nearest number with two significant digits.
fn two_digits(value: f64) -> f64 {
    let unit = 10f64.powf(value.log10().floor() - 1.0);
    (value / unit).round() * unit
}

fn format_power(exponent: f64) -> String {
    let value = 10f64.powf(exponent);
    match value {
        v if v >= 10.0 => format!("{v:.0}"),
        v if v >= 1.0 => format!("{v:.1}"),
        v if v >= 0.1 => format!("{v:.2}"),
        v if v >= 0.001 => format!("{v:.4}"),
        v => format!("{v:.1e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AXES: Axes = Axes { x: "updates", y: "loss", description: "a <figure>" };

    #[test]
    fn figures_are_labelled_scale_and_take_the_pages_ink() {
        let svg = curves(&[Series { name: "base".into(), points: vec![(0.0, 1.0), (10.0, 0.1)] }], AXES).unwrap();
        assert!(svg.starts_with("<svg role=\"img\" aria-label=\"a &lt;figure&gt;\" viewBox=\"0 0 720 360\">"), "{}", &svg[..120]);
        assert!(svg.contains("currentColor") && svg.contains("updates") && svg.trim_end().ends_with("</svg>"));
        assert!(!svg.contains("http"));
    }

    #[test]
    fn a_bar_without_an_interval_has_no_whisker() {
        let bar = |low, high| Some(Bar { value: 5.0, low, high });
        // The upper end is the value, so that both figures have the same axis.
        let with = bars(&[("g".into(), vec![bar(4.0, 5.0), None])], AXES).unwrap();
        let without = bars(&[("g".into(), vec![bar(f64::NEG_INFINITY, f64::INFINITY), None])], AXES).unwrap();
        assert!(with.matches("<polyline").count() == without.matches("<polyline").count() + 1);
        assert!(!without.contains("NaN") && !without.contains("inf"));
    }

    #[test]
    fn nothing_to_draw_is_an_error() {
        assert!(curves(&[], AXES).is_err() && bars(&[], AXES).is_err() && scatter(&[], AXES).is_err() && sizes(&[], AXES).is_err());
    }
}
