//! What the reader itself is worth on fresh renders.

use super::{CELL, Reader, SIDE, SeenObject, argmax, centre, distance};
use crate::error::{Error, Result};
use crate::mini::render;
use crate::mini::scene::{self, Kind, Scene, Split};
use crate::mini::words::Relation;
use crate::run::rng;

/// The reader's own accuracy on fresh renders: what no generated picture can exceed by more than chance.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Ceilings {
    /// Share of objects that are found at their place with the right noun.
    pub object: f64,
    /// Share of objects without a shape whose noun and colour or texture are right.
    pub colour: f64,
    pub texture: f64,
    /// Share of shaped objects whose noun and shape are right.
    pub shape: f64,
    /// Share of scenes in which the number of objects found is the true one.
    pub count: f64,
    /// Share of spatial scenes in which both nouns are found and their centres stand in the right relation.
    pub relation: f64,
    /// Share of scenes with a covered object in which both nouns are found and the right one is nearer.
    pub depth: f64,
    /// Share of scenes whose background is right.
    pub background: f64,
    pub n_scenes: u64,
}

impl Reader {
    /// Accuracy on `n` fresh clean renders of validation scenes (which show held-out combinations).
    pub fn ceilings(&self, n: u64, seed: u64) -> Result<Ceilings> {
        let (mut objects, mut colours, mut textures, mut shapes) = (Hits::default(), Hits::default(), Hits::default(), Hits::default());
        let (mut counts, mut relations, mut depths, mut backgrounds) = (Hits::default(), Hits::default(), Hits::default(), Hits::default());
        for item in 0..n {
            let key = rng::Key { seed, purpose: "reader ceiling", item, draw: 0 };
            let scene = Scene::sample(&mut rng::stream(key), Split::Val);
            let (seen, background) = self.look(&render::render(&scene, SIDE as u32))?;
            for object in &scene.objects {
                let here = |seen: &&SeenObject| distance(centre(&seen.bounds), object.centre) < CELL;
                let named = seen.iter().filter(here).find(|seen| seen.noun == object.noun);
                objects.count(named.is_some());
                let finish = named.is_some_and(|seen| seen.finish == object.finish);
                match object.shape {
                    Some(_) => shapes.count(named.is_some_and(|seen| seen.shape == object.shape)),
                    None if object.finish.is_texture() => textures.count(finish),
                    None => colours.count(finish),
                }
            }
            counts.count(seen.len() == scene.count());
            match scene.kind {
                Kind::Spatial => relations.count(relation_holds(&scene, &seen)),
                Kind::Depth => depths.count(relation_holds(&scene, &seen)),
                _ => {}
            }
            backgrounds.count(argmax(&background) == scene.background.index());
        }
        if [objects, colours, textures, shapes, relations, depths].iter().any(|hits| hits.n == 0) {
            return Err(Error::Invalid(format!("{n} scenes are too few to measure the reader on")));
        }
        Ok(Ceilings {
            object: objects.share(),
            colour: colours.share(),
            texture: textures.share(),
            shape: shapes.share(),
            count: counts.share(),
            relation: relations.share(),
            depth: depths.share(),
            background: backgrounds.share(),
            n_scenes: n,
        })
    }
}

/// How many of how many.
#[derive(Debug, Clone, Copy, Default)]
struct Hits {
    right: u64,
    n: u64,
}

impl Hits {
    fn count(&mut self, right: bool) {
        self.right += u64::from(right);
        self.n += 1;
    }

    fn share(self) -> f64 {
        self.right as f64 / self.n as f64
    }
}

fn relation_holds(scene: &Scene, seen: &[SeenObject]) -> bool {
    let find = |object: &scene::Object| seen.iter().find(|seen| seen.noun == object.noun);
    let [first, second] = &scene.objects[..] else { return false };
    let (Some(a), Some(b), Some(relation)) = (find(first), find(second), scene.relation) else { return false };
    let ([ax, ay], [bx, by]) = (centre(&a.bounds), centre(&b.bounds));
    let sideways = (ax - bx).abs() > (ay - by).abs();
    match relation {
        Relation::Left | Relation::NextTo | Relation::Near | Relation::OnSideOf => sideways && ax < bx,
        Relation::Right => sideways && ax > bx,
        Relation::Top => !sideways && ay < by,
        Relation::Bottom => !sideways && ay > by,
        Relation::InFrontOf => a.nearness > b.nearness,
        Relation::Behind | Relation::HiddenBy => a.nearness < b.nearness,
    }
}
