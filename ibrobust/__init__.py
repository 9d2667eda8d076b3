"""ibrobust: is the robustness real, or did the gradient vanish?

The names below are the public API. They are loaded on first use, so that `import ibrobust` stays instant.
"""
