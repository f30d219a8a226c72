/** What the guidance pad says, in English. */
export const words = {
  "guidance.panel": "Guidance pad",
  "guidance.handle": "Strength of prompt and frames",
  "guidance.keys":
    "Left and right: prompt. Up and down: given frames. With Shift, in large steps. Double-click: the usual strengths.",
  "guidance.both": "prompt {text}, frames {image}",
  "guidance.joint": "prompt and frames {text} together",
  "guidance.joint_unknown": "prompt and frames together",
  "guidance.text_of": "prompt: cfg of {owner}",
  "guidance.none": "prompt: no sampler connected",
  "guidance.several": "prompt: several samplers use it",
  "guidance.wired": "prompt: the cfg comes by wire",
  "guidance.image_of": "frames: image_scale",
  "guidance.image_wired": "frames: image_scale comes by wire",
  "guidance.separate": "Give frames a strength of their own",
};
