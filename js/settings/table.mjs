/**
 * The pack's settings and commands in English. locales/<language>/settings.json and commands.json
 * hold them for the host, under their ids with underscores for dots.
 */

export const settings = [
  {
    id: "STIV.Panels.Show",
    name: "Show panels on nodes",
    tooltip: "Shapes and seconds, model card, plan and guidance pad. Nothing is lost when they are hidden: the nodes' own inputs hold every value.",
    type: "boolean",
    defaultValue: true,
  },
  {
    id: "STIV.Previews.Moving",
    name: "Moving previews",
    tooltip: "While a video is sampled, its preview plays several frames instead of showing one.",
    type: "boolean",
    defaultValue: true,
  },
  {
    id: "STIV.Previews.Fps",
    name: "Speed of moving previews",
    tooltip: "Frames per second.",
    type: "slider",
    defaultValue: 8,
    attrs: { min: 1, max: 30, step: 1 },
  },
];

export const commands = [
  { id: "STIV.Open.ImageToVideo", label: "STIV: open image to video", icon: "pi pi-image" },
  { id: "STIV.Open.LongVideo", label: "STIV: open a long video", icon: "pi pi-video" },
  { id: "STIV.Panels.Toggle", label: "STIV: show or hide panels", icon: "pi pi-eye" },
];
