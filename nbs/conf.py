"Sphinx settings; everything else is in settings.ini."
from configparser import ConfigParser
from pathlib import Path

settings = ConfigParser(delimiters=['='])
settings.read(Path(__file__).parent.parent/'settings.ini', encoding='utf-8')
cfg = settings['DEFAULT']
project, author, copyright, release = (cfg[name] for name in ('title', 'author', 'copyright', 'version'))

extensions = ['myst_nb', 'sphinx_copybutton', 'sphinx-mathjax-offline']
nb_execution_mode = 'off'
nb_ipywidgets_js = {}  # nothing is fetched
nb_merge_streams = True
nb_render_markdown_format = 'gfm'
myst_enable_extensions = ['dollarmath', 'amsmath', 'colon_fence', 'attrs_inline', 'attrs_block', 'deflist']
suppress_warnings = ['myst.header']  # headings made by `show_doc` are always level 3

html_title = cfg['title']
html_theme = 'sphinx_book_theme'
html_show_sourcelink = html_use_index = False
html_static_path, html_css_files, html_favicon = ['_static'], ['site.css'], '_static/favicon.svg'
html_context = dict(default_mode='auto')  # or the theme reports an error to the console
html_theme_options = dict(
    repository_url=cfg['git_url'],
    use_repository_button=True,
    home_page_in_toc=True,
    navbar_persistent=[],
    show_toc_level=2,
    navigation_with_keys=False,
    pygments_dark_style='github-dark-colorblind')  # its comments are grey, and light enough to read
